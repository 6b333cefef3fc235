"""`spa3r ask`, as a shell would call it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from preprocessing.dataset import ingest_dataset
from spa3r.ask_commands import kind_of, register
from spa3r.config import IngestSpec
from spa3r.errors import (
    ConfigError,
    FormatError,
    MediaError,
    PromptError,
    TeacherError,
    WeightsError,
)
from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.commands import parser_of
from tests.scan_arrays import scan_arrays
from tests.sens_maker import make_sens
from tests.tiny_vlm import save_tiny_vlm, tiny_config, tiny_vlm
from tests.untrained import untrained_photographer
from tests.video_maker import make_video

Command = Callable[..., str]
QUESTION = "How many chairs are there?"


@pytest.fixture
def spa3r(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Command:
    """Runs a command in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    parser = parser_of(register)

    def call(*words: Any) -> str:
        words = words if "--max-new-tokens" in words else (*words, "--max-new-tokens", 3)
        arguments = parser.parse_args([str(word) for word in words])
        arguments.run(arguments)
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("sensor"), max_frames=4)


@pytest.fixture(scope="module")
def photographer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographer")
    encoder = untrained_photographer(folder / "vggt")
    encoder.save_pretrained(folder / "encoder")
    encoder.where = str(folder / "encoder")
    config = tiny_config(image_width=84, max_frames=3)
    tiny_vlm(encoder=encoder, config=config, stir=True).save_pretrained(folder / "vlm")
    return folder / "vlm"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=5, width=112, height=84)["images"]):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.jpg"), image)
    return [f"photos/{i}.jpg" for i in range(5)]


def test_photos_are_asked_about_in_their_order(
    spa3r: Command, photographer: Path, photos: list[str], capsys
):
    order = [photos[3], photos[0], photos[2]]
    said = spa3r("ask", *order, QUESTION, "--model", photographer, "--max-new-tokens", 6)
    plain = Spa3VLM.from_pretrained(photographer).ask(order, QUESTION, max_new_tokens=6)
    assert said == plain.text + "\n" and plain.frames == ("3.jpg", "0.jpg", "2.jpg")


def test_a_folder_and_a_video_are_looked_at_evenly(
    spa3r: Command, photographer: Path, photos: list[str], caplog: pytest.LogCaptureFixture
):
    Path("v.mp4").write_bytes(make_video(8, container="mp4", size=(112, 84)))
    with caplog.at_level("INFO"):
        assert spa3r("ask", "photos", QUESTION, "--model", photographer).strip()
        assert spa3r("ask", "v.mp4", QUESTION, "--model", photographer).strip()
    lines = [r.getMessage() for r in caplog.records if "asking about" in r.getMessage()]
    assert lines[0] == "asking about 3 views (0.jpg, 2.jpg, 4.jpg)"
    assert "frame-000000" in lines[1] and "3 views" in lines[1]


def test_a_scan_gives_an_rgbd_taught_encoder_its_depth(spa3r: Command, sensor: Path):
    make_sens(Path("scene0000_00/scene0000_00.sens"))
    said = spa3r("ask", "scene0000_00", QUESTION, "--model", sensor, "--max-new-tokens", 4)
    assert said.strip()


def test_photos_alone_give_it_a_clear_line(spa3r: Command, sensor: Path, photos: list[str]):
    with pytest.raises(TeacherError, match="photos without depth need a VGGT-taught encoder"):
        spa3r("ask", *photos, QUESTION, "--model", sensor)


def test_a_file_of_questions(spa3r: Command, photographer: Path, photos: list[str]):
    rows = [{"id": "a", "images": photos[:2], "question": QUESTION},
            {"id": "b", "images": ["photos/none.jpg"], "question": QUESTION}]  # fmt: skip
    Path("q.jsonl").write_text(json.dumps(rows[0]) + "\n")
    said = spa3r("ask", "--jsonl", "q.jsonl", "-o", "a.jsonl", "--model", photographer)
    assert said == "a.jsonl: 1 questions answered\n"
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        FormatError, match=r"a\.jsonl: 1 questions answered; 1 not: 1 missing_media"
    ):
        spa3r("ask", "--jsonl", "q.jsonl", "-o", "a.jsonl", "--model", photographer)
    first, second = (json.loads(line) for line in Path("a.jsonl").read_text().splitlines())
    assert first["id"] == "a" and "none.jpg" in second["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ask", "a.jpg"], "write: spa3r ask PHOTOS"),
        (["ask"], "write: spa3r ask PHOTOS"),
        (["ask", "a.jpg", "b.jpg"], "b.jpg is a file: the last word is the question"),
        (["ask", "a.jpg", "."], "[.] is a file: the last word is the question"),
        (["ask", "a.jpg", "why?", "-o", "x"], "or --jsonl FILE -o OUT"),
        (["ask", "--jsonl", "q.jsonl"], "--jsonl FILE needs -o OUT"),
        (["ask", "a.jpg", "why?", "--jsonl", "q", "-o", "x"], "takes no photos or question"),
    ],
)
def test_what_does_not_fit_together(spa3r: Command, words: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        spa3r(*words)


def test_things_that_are_not_there(spa3r: Command, sensor: Path, photos: list[str]):
    with pytest.raises(MediaError, match=r"none\.jpg: no such file"):
        spa3r("ask", photos[0], "none.jpg", QUESTION, "--model", sensor)
    with pytest.raises(PromptError, match=r"100000 characters.* this model takes 8192"):
        spa3r("ask", photos[0], "x" * 100_000, "--model", sensor)
    with pytest.raises(MediaError, match="nowhere"):
        spa3r("ask", "nowhere", QUESTION, "--model", sensor)
    with pytest.raises(WeightsError, match=r"photos has no config\.json"):
        spa3r("ask", photos[0], QUESTION, "--model", "photos")
    with pytest.raises(WeightsError, match="was tuned with"):
        spa3r("ask", photos[0], QUESTION, "--model", sensor, "--encoder", other_encoder())


def other_encoder() -> str:
    from tests.untrained import save_untrained

    return str(save_untrained(Path("other"), seed=5))


def test_what_paths_name():
    assert kind_of(["a.JPG", "b.png"]) == "images"
    assert kind_of(["walk.MP4"]) == "video" and kind_of(["scan"]) == "scan"
    with pytest.raises(ConfigError, match="chairs: several places are taken as image files"):
        kind_of(["a.jpg", "chairs"])  # a question without quotes


def test_a_scene_of_frame_shards(spa3r: Command, sensor: Path, caplog: pytest.LogCaptureFixture):
    """By folder and name; its depth and cameras go along."""
    make_sens(Path("raw/walk.sens"), 9)
    ingest_dataset("raw", "walks", IngestSpec(width=224, multiple=28), "shards")
    with caplog.at_level("INFO"):
        said = spa3r("ask", "shards/walk", QUESTION, "--model", sensor)
    assert said.strip() and "asking about 4 views (frame-000000, " in caplog.text
    with pytest.raises(MediaError, match="none"):
        spa3r("ask", "shards/none", QUESTION, "--model", sensor)
