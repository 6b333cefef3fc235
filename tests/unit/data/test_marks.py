"""SPAR's markers: exactly where, exactly how large."""

import numpy as np
import pytest

from spa3r.data.marks import draw_marks
from spa3r.instructions import Mark

GRAY = np.full((480, 640, 3), 90, np.uint8)
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0), "yellow": (255, 255, 0)}


def where(rgb_HW3: np.ndarray, colour: str) -> np.ndarray:
    return (rgb_HW3 == COLOURS[colour]).all(axis=-1)


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_a_point_is_a_disc_of_radius_20(colour: str):
    mark = Mark(kind="point", colour=colour, image=0, xy=(250.0, 750.0))
    drawn = where(draw_marks(GRAY, [mark]), colour)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), columns.max()) == (160 - 20, 160 + 20)
    assert (rows.min(), rows.max()) == (360 - 20, 360 + 20)
    v, u = np.mgrid[:480, :640]
    away = np.hypot(u - 160, v - 360)
    assert drawn[away < 19.5].all() and not drawn[away > 21].any()


def test_a_box_is_20_wide_and_seven_eighths_of_it_outside():
    mark = Mark(kind="box", colour="blue", image=0, xy=(250.0, 250.0, 500.0, 750.0))
    drawn = where(draw_marks(GRAY, [mark]), "blue")
    # 160, 120 to 320, 360 in pixels, 17.5 more on each side, cut to whole pixels.
    wanted = np.zeros((480, 640), bool)
    wanted[102:378, 142:338] = True
    wanted[122:358, 162:318] = False
    assert (drawn == wanted).all()


def test_thousandths_of_any_size_are_cut_to_whole_pixels():
    small = np.zeros((100, 333, 3), np.uint8)
    mark = Mark(kind="point", colour="red", image=0, xy=(500.0, 999.0))  # 166.5, 99.9
    rows, columns = np.nonzero(where(draw_marks(small, [mark]), "red"))
    assert columns.min() == 146 and columns.max() == 186 and rows.min() == 79


def test_later_marks_lie_on_top_and_the_rest_stays():
    marks = [Mark(kind="point", colour=c, image=0, xy=(500.0, 500.0)) for c in ("red", "green")]
    drawn = draw_marks(GRAY, marks)
    assert not where(drawn, "red").any() and where(drawn, "green")[240, 320]
    assert (drawn[:200] == 90).all() and (GRAY == 90).all()
    assert (draw_marks(GRAY, []) == GRAY).all()


@pytest.mark.parametrize("xy", [(0.0, 0.0, 10.0, 10.0), (900.0, 900.0, 1000.0, 1000.0)])
def test_a_label_is_seen_whole(xy: tuple[float, ...]):
    mark = Mark(kind="box", colour="red", image=0, xy=xy, label="object0")
    plain = Mark(kind="box", colour="red", image=0, xy=xy)
    label = (draw_marks(GRAY, [mark]) != draw_marks(GRAY, [plain])).any(axis=-1)
    rows, columns = np.nonzero(label)
    assert np.ptp(rows) > 25 and np.ptp(columns) > 100
    assert rows.min() >= 0 and rows.max() < 480 and columns.max() < 640
