"""`spa3r encode` and `spa3r query`, as a shell would call them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from spa3r.errors import ConfigError, ImageError, SceneError, Spa3RError, TeacherError, WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.latent import SceneLatent
from spa3r.scene_commands import _spread, register
from tests.commands import parser_of
from tests.scan_arrays import scan_arrays
from tests.sens_maker import make_sens
from tests.untrained import save_untrained, untrained_photographer

Command = Callable[..., str]


@pytest.fixture
def spa3r(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Command:
    """Runs a command in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    parser = parser_of(register)

    def call(*words: Any) -> str:
        arguments = parser.parse_args([str(word) for word in words])
        arguments.run(arguments)
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("sensor"))


@pytest.fixture(scope="module")
def photographer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographer")
    untrained_photographer(folder / "vggt").save_pretrained(folder / "encoder")
    return folder / "encoder"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=10, width=112, height=84)["images"]):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.jpg"), image)
    return [f"photos/{i}.jpg" for i in range(10)]


# --- encode ---------------------------------------------------------------------------------------


def test_image_files_are_all_read_in_order(spa3r: Command, photographer: Path, photos: list[str]):
    order = [photos[3], photos[0], photos[7]]
    out = spa3r("encode", *order, "-o", "a.safetensors", "--encoder", photographer)
    assert out.startswith("a.safetensors: 8 latents x 32") and "from 3 views of 4 x 6" in out
    scene = SceneLatent.load("a.safetensors")
    assert scene.names == ("3.jpg", "0.jpg", "7.jpg") and scene.source_sizes == ((112, 84),) * 3
    plain = Spa3REncoder.from_pretrained(photographer).encode(order)
    assert (scene.latents_LD == plain.latents_LD).all()
    alone = spa3r("encode", photos[0], "-o", "b.safetensors", "--encoder", photographer,
                  "--points", 0)  # fmt: skip
    assert "from 1 views" in alone and "0 surface points" in alone


@pytest.mark.parametrize(("options", "expected"), [((), 8), (("--num-views", 4), 4),
                                                   (("--num-views", 0), 10)])  # fmt: skip
def test_photos_of_a_folder_are_spread(
    options: tuple[Any, ...], expected: int, spa3r: Command, photographer: Path, photos: list[str]
):
    spa3r("encode", "photos", "-o", "a.safetensors", "--encoder", photographer, *options)
    names = SceneLatent.load("a.safetensors").names
    assert len(names) == expected and (names[0], names[-1]) == ("0.jpg", "9.jpg")


def test_a_scan_is_encoded_with_its_cameras(
    spa3r: Command, sensor: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_sens(tmp_path / "a.sens", frames=3)
    with caplog.at_level(logging.INFO):
        out = spa3r("encode", "a.sens", "-o", "a.safetensors", "--encoder", sensor, "--device",
                    "cpu", "--dtype", "float32", "--points", 300)  # fmt: skip
    assert "reading views of a.sens" in caplog.text
    assert "encoding 3 views with teacher rgbd on cpu in float32" in caplog.text
    scene = SceneLatent.load("a.safetensors")
    assert scene.names == ("frame-000000", "frame-000001", "frame-000002")
    assert scene.metres_per_unit > 0 and "unknown" not in out
    assert scene.surface is not None and 0 < scene.surface.depth_Chw.numel() <= 300


def test_named_images_may_be_thinned(spa3r: Command, photographer: Path, photos: list[str]):
    spa3r("encode", *photos, "-o", "a.safetensors", "--encoder", photographer, "--num-views", 3)
    assert SceneLatent.load("a.safetensors").names == ("0.jpg", "4.jpg", "9.jpg")
    for count in range(1, 13):
        assert len(set(_spread(photos, count))) == min(count, 10)
    assert _spread(photos, 0) == photos and _spread(photos[:1], 5) == photos[:1]


REFUSED: list[tuple[tuple[str, ...], type[Spa3RError], str]] = [
    (("photos/0.jpg", "photos"), ImageError, "photos: a folder; give the image files"),
    (("photos/0.jpg", "no.jpg"), ImageError, r"no\.jpg: no such file"),
    (("nothing",), SceneError, "nothing"),
    (("photos", "--device", "cuda:99"), ConfigError, "device 'cuda:99'"),
    (("photos", "--encoder", "nothing"), TeacherError, "nothing: no such file or folder"),
]


@pytest.mark.parametrize(("words", "error", "line"), REFUSED)
def test_mistakes_are_one_line(
    words: tuple[str, ...], error: type[Spa3RError], line: str, spa3r: Command, photographer: Path,
    photos: list[str],
):  # fmt: skip
    with pytest.raises(error, match=line) as caught:
        spa3r("encode", "--encoder", photographer, *words, "-o", "a.safetensors")
    assert "\n" not in str(caught.value) and not Path("a.safetensors").exists()


@pytest.mark.parametrize("number", ["-1", "x", "1.5"])
def test_counts_are_whole_numbers(number: str, spa3r: Command):
    with pytest.raises(SystemExit):
        spa3r("encode", "photos", "-o", "a", f"--num-views={number}")


@pytest.mark.parametrize("out", [".", "photos", "/proc/x", "photos/0.jpg/x"])
def test_encode_tries_its_output_first(
    out: str, spa3r: Command, photos: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("spa3r.scene_commands.load_encoder", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        spa3r("encode", *photos, "-o", out)
    assert str(caught.value).startswith(f"{out}: ") and "\n" not in str(caught.value)


# --- query ----------------------------------------------------------------------------------------


@pytest.fixture
def scene(sensor: Path, tmp_path: Path) -> SceneLatent:
    arrays: dict[str, Any] = scan_arrays(views=3)
    scene = Spa3REncoder.from_pretrained(sensor).encode(**arrays)
    scene.save(tmp_path / "s.safetensors")
    return scene


def arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


def test_query_answers_for_a_view_and_draws_it(
    spa3r: Command, sensor: Path, scene: SceneLatent
) -> None:
    out = spa3r("query", "s.safetensors", "-o", "v.png", "--encoder", sensor, "--view", 2)
    assert out == "v.npz, v.png: geometric, semantic and depth at 1 cameras of 6 x 8 patches\n"
    np.testing.assert_array_equal(arrays("v.npz")["depth"][0], scene.query(2).depth)
    assert Image.open("v.png").size == (3 * 224, 168)
    spa3r("query", "s.safetensors", "-o", "first", "--encoder", sensor)
    np.testing.assert_array_equal(arrays("first.npz")["depth"][0], scene.query(0).depth)
    assert not Path("first").exists()


@pytest.mark.parametrize("trajectory", ["orbit", "dolly", "interpolate"])
def test_query_answers_along_a_trajectory(
    trajectory: str, spa3r: Command, sensor: Path, scene: SceneLatent
) -> None:
    out = "t.gif" if trajectory == "orbit" else "t.npz"
    spa3r("query", "s.safetensors", "-o", out, "--encoder", sensor, "--trajectory", trajectory,
          "--frames", 4)  # fmt: skip
    found = arrays("t.npz")
    assert found["geometric"].shape == (4, 6, 8, 256)
    assert out == "t.npz" or Image.open("t.gif").n_frames == 4  # type: ignore[attr-defined]
    np.testing.assert_allclose(found["world_from_camera"][0], np.eye(4), atol=1e-6)
    assert np.ptp(found["world_from_camera"], axis=0).max() > 1e-2


def test_query_answers_for_cameras_of_a_file(
    spa3r: Command, sensor: Path, scene: SceneLatent
) -> None:
    entries = [{"pose": np.eye(4).tolist(), "K": scene.K_C33[0].tolist(), "size": [224, 168]}] * 2
    Path("c.json").write_text(json.dumps({"convention": "opencv", "cameras": entries}))
    spa3r("query", "s.safetensors", "-o", "c.npz", "--encoder", sensor, "--cameras", "c.json")
    np.testing.assert_allclose(arrays("c.npz")["depth"][1], scene.query(0).depth, atol=1e-5)


ASKED: list[tuple[tuple[str, ...], type[Spa3RError], str]] = [
    (("--view", "3"), ConfigError, r"3 context views: choose 0\.\.2"),
    (("--trajectory", "orbit"), ConfigError, "60 cameras make a movie"),
    (("--trajectory", "orbit", "--frames", "0"), ConfigError, "at least one camera"),
    (("--cameras", "no.json"), ConfigError, r"no\.json: no such file"),
]


@pytest.mark.parametrize(("words", "error", "line"), ASKED)
def test_impossible_questions_are_one_line(
    words: tuple[str, ...], error: type[Spa3RError], line: str, spa3r: Command, sensor: Path,
    scene: SceneLatent,
):  # fmt: skip
    with pytest.raises(error, match=line) as caught:
        spa3r("query", "s.safetensors", "-o", "x.png", "--encoder", sensor, *words)
    assert "\n" not in str(caught.value) and not Path("x.npz").exists()


@pytest.mark.parametrize(("out", "line"), [
    ("x.safetensors", r"x\.safetensors: unknown ending.*\.npz, \.png, \.gif, \.mp4"),
    ("/proc/x.npz", r"/proc/x\.npz: cannot be written"),
    ("s.safetensors/x.png", r"x\.npz: cannot be written"),
    ("taken.png", r"taken\.png: cannot be written \(it is a folder"),
])  # fmt: skip
def test_query_tries_its_outputs_first(
    out: str, line: str, spa3r: Command, scene: SceneLatent, monkeypatch: pytest.MonkeyPatch
):
    Path("taken.png").mkdir()
    monkeypatch.setattr("spa3r.scene_commands.load_encoder", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match=line):
        spa3r("query", "s.safetensors", "-o", out)
    assert not list(Path().glob("*.npz"))


def test_query_refuses_another_encoder_and_a_missing_scene(
    spa3r: Command, photographer: Path, scene: SceneLatent
) -> None:
    with pytest.raises(WeightsError, match="made by encoder"):
        spa3r("query", "s.safetensors", "-o", "x.npz", "--encoder", photographer)
    with pytest.raises(SceneError, match=r"no\.safetensors: no such file"):
        spa3r("query", "no.safetensors", "-o", "x.npz", "--encoder", photographer)
    with pytest.raises(SystemExit):
        spa3r("query", "s.safetensors", "-o", "x.npz", "--view", 1, "--trajectory", "orbit")
