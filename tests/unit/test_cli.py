"""The `spa3r` command: help, one line for every mistake, and the commands that need no training."""

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import cv2
import pytest
from PIL import Image

from spa3r import cli
from tests.ports import free_port
from tests.scan_arrays import scan_arrays
from tests.sens_maker import make_dataset, make_sens
from tests.untrained import save_untrained

ISSUE = {"demo", "rooms", "ingest", "merge", "targets", "pretrain", "evaluate", "promote",
         "rollback", "lineage", "encode", "query", "export", "view", "convert", "show", "verify",
         "doctor", "sweep", "pack", "instruct", "questions", "ask", "chat", "tune"}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """What a shell sees of a command."""

    code: int
    out: str
    errors: list[str]


Command = Callable[..., Ended]


@contextlib.contextmanager
def bare_logging() -> Iterator[None]:
    """pytest's own handlers would keep the command from setting up its log lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def spa3r(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Iterator[Command]:
    """Runs the command in this process, in an empty folder, as a shell would."""
    monkeypatch.chdir(tmp_path)
    settings = {"SPA3R_HOME": str(home), "SPA3R_WORKERS": "1", "SPA3R_TRAIN_WORKERS": "0"}
    with mock.patch.dict(os.environ, settings):
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
            os.environ.pop(name, None)

        def run(*arguments: object) -> Ended:
            capsys.readouterr()
            with bare_logging():
                code = cli.main([str(a) for a in arguments])
            shown = capsys.readouterr()
            return Ended(code, shown.out, shown.err.splitlines())

        yield run


def refused(ended: Ended, *said: str) -> None:
    """Exit 1 and exactly one line, which says all of `said`."""
    assert ended.code == 1 and len(ended.errors) == 1, ended
    assert ended.errors[0].startswith("spa3r: ") and not ended.out
    for text in said:
        assert text in ended.errors[0], ended.errors[0]


# --- help -----------------------------------------------------------------------------------------


def subcommands() -> dict[str, argparse.ArgumentParser]:
    for action in cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no subcommands")


def test_the_commands_are_the_ones_asked_for() -> None:
    assert set(subcommands()) == ISSUE


@pytest.mark.parametrize("name", sorted(ISSUE))
def test_help_says_what_a_command_does(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    description = subcommands()[name].description or ""
    assert ended.value.code == 0 and len(description) > 20
    assert " ".join(description.split()) in " ".join(text.split())
    assert f"usage: spa3r {name}" in text


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("targets --recipe huge", ["'huge'", "debug", "tiny"]),
        ("demo --recipe huge", ["'huge'", "debug", "tiny"]),
        ("demo --set clips.gap=0", ["gap"]),
        ("ingest . --recipe huge", ["'huge'", "choose one of"]),
        ("ingest . --set ingest.stride=0", ["stride"]),
        ("ingest nowhere --dry-run", ["nowhere: no such file", "check the path"]),
        ("merge both attic cellar", ["attic", "spa3r ingest ROOT --dataset attic --recipe tiny"]),
        ("merge attic attic", ["merge attic", "choose another"]),
        ("merge scannet attic", ["merge scannet", "choose another"]),
        ("pretrain --set train.stepz=1", ["stepz"]),
        ("pretrain --set train.steps", ["train.steps", "KEY=VALUE"]),
        ("pretrain --set train.steps=many", ["steps", "many"]),
        ("pretrain --set train.steps=40", ["warmup"]),
        ("targets --dataset attic", ["attic", "spa3r ingest ROOT --dataset attic --recipe tiny"]),
        ("show scene0000_00 --dataset attic", ["spa3r ingest ROOT --dataset attic"]),
        ("pretrain --dataset attic", ["attic", "spa3r targets --dataset attic --recipe tiny"]),
        ("promote", ["spa3r-encoder", "candidate", "spa3r pretrain"]),
        ("rollback", ["spa3r-encoder", "champion", "spa3r promote"]),
        ("lineage", ["models:/spa3r-encoder@champion", "not in the registry"]),
        ("lineage nowhere", ["nowhere", "config.json"]),
        ("evaluate", ["models:/spa3r-encoder@candidate", "not in the registry"]),
        ("evaluate nowhere", ["nowhere", "config.json"]),
        ("encode photos -o x.safetensors --encoder ./nowhere", ["nowhere"]),
        ("ingest nowhere", ["nowhere: no such file", "check the path"]),
        ("show nowhere.safetensors", ["nowhere.safetensors", "spa3r encode"]),
        ("rooms out --size big", ["--size big", "640x480"]),
        ("rooms out --count 0", ["0 scenes"]),
        ("rooms out --count 2 --val 3", ["val_scenes"]),
        ("rooms out --invalid-poses 2", ["invalid_pose"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_cure(
    arguments: str, said: list[str], spa3r: Command
) -> None:
    refused(spa3r(*arguments.split()), *said)
    assert not list(Path.cwd().iterdir()), "something was written"


def test_a_name_with_a_line_end_is_still_one_line(spa3r: Command, tmp_path: Path) -> None:
    (tmp_path / "bad\nname.sens").write_bytes(b"")
    ended = spa3r("ingest", str(tmp_path / "bad\nname.sens"))
    told = [line for line in ended.errors if "name.sens" in line]
    assert ended.code == 1 and told, ended
    assert all("bad\\nname.sens" in line for line in told), ended


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_count_is_a_positive_number(number: str, spa3r: Command, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        spa3r("demo", "--rooms", number)
    assert ended.value.code == 2 and "at least 1" in capsys.readouterr().err


def test_a_bad_environment_is_one_line(spa3r: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPA3R_WORKERS", "many")
    refused(spa3r("doctor"), "SPA3R_WORKERS='many'")
    monkeypatch.setenv("SPA3R_WORKERS", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    refused(spa3r("promote"), "foo://bar", "unset MLFLOW_TRACKING_URI")


@pytest.mark.parametrize(
    ("command", "variable", "cure"),
    [
        ("evaluate", "MLFLOW_TRACKING_URI", "mlflow server"),
        ("demo", "PREFECT_API_URL", "prefect server start"),
        ("demo", "MLFLOW_TRACKING_URI", "mlflow server"),
    ],
)
def test_a_server_that_is_away_is_one_line_and_soon(
    command: str, variable: str, cure: str, tmp_path: Path
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    env = os.environ | {"SPA3R_HOME": str(tmp_path / "home"), variable: uri}
    # Four seconds on an idle core; the libraries' own retries would go on for minutes.
    done = subprocess.run(
        [Path(sys.executable).with_name("spa3r"), command],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    refused(Ended(done.returncode, done.stdout, done.stderr.splitlines()), uri, cure)


def test_an_interrupt_keeps_its_exit_code(spa3r: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.doctor.report", interrupted)
    ended = spa3r("doctor")
    assert ended.code == 130 and "run again to continue" in ended.errors[-1]


# --- commands that need no training ---------------------------------------------------------------


def test_rooms_ingest_and_show(spa3r: Command, home: Path, tmp_path: Path) -> None:
    rooms = ("rooms", "raw", "--count", 2, "--val", 1, "--size", "224x168", "--frames", 6)
    made = spa3r(*rooms)
    assert made.code == 0 and made.out == "2 rooms in raw\n"
    assert len(list((tmp_path / "raw" / "scans").glob("*/*.sens"))) == 2
    small = ("--dataset", "small", "--recipe", "debug")
    planned = spa3r("ingest", "raw", *small, "--dry-run")
    assert planned.code == 0 and planned.out.startswith("scenes  2 of dataset small: 2 new\n")
    assert "frames  12, 12 of them to be read; counted in 2 of 2 scenes\n" in planned.out
    assert not list(home.glob("shards/small-*")), "a dry run wrote something"
    first = spa3r("ingest", "raw", *small)
    assert first.code == 0, first
    assert first.out.startswith("2 scenes (2 new), 12 of 12 frames, in "), first
    again = spa3r("ingest", "raw", *small)
    assert again.out.startswith("re-used: 2 scenes, 12 of 12 frames, in "), again
    assert "2 done" in spa3r("ingest", "raw", *small, "--dry-run").out
    shown = spa3r("show", "scene0001_00", *small)
    assert shown.code == 0 and shown.out.startswith("scene0001_00.png: 6 of 6 frames")
    assert Image.open("scene0001_00.png").width > 224
    refused(spa3r("show", "scene0999_00", *small), "scene0999_00")


def test_what_became_of_each_scene_is_in_the_line(spa3r: Command, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", scans=3, frames=6, bad_poses=[1])
    kept = ("--dataset", "kept", "--recipe", "debug")
    spa3r("ingest", raw, *kept)
    shutil.rmtree(raw / "scans" / "scene0000_00")
    make_sens(raw / "scans" / "scene0001_00" / "scene0001_00.sens", frames=5)
    (raw / "scans" / "scene0007_00").mkdir()
    (raw / "scans" / "scene0007_00" / "scene0007_00.sens").write_bytes(b"no scan at all")
    make_sens(raw / "scans" / "scene0008_00" / "scene0008_00.sens", frames=4)
    failed = spa3r("ingest", raw, *kept)
    assert failed.code == 1 and "1 of 4 scenes cannot be used: scene0007_00" in failed.errors[-1]
    ended = spa3r("ingest", raw, *kept)
    assert ended.code == 0 and ended.out.startswith(
        "re-used: 3 scenes, 14 of 15 frames (1 invalid_pose), 1 that cannot be used, 1 removed, in"
    ), ended.out
    make_sens(raw / "scans" / "scene0009_00" / "scene0009_00.sens", frames=4)
    ended = spa3r("ingest", raw, *kept)
    assert ended.out.startswith("4 scenes (1 new, 3 re-used), 18 of 19 frames"), ended.out


def test_scenes_are_named_and_datasets_merged(spa3r: Command, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", scans=3, frames=4)
    debug = ("--recipe", "debug")
    one = spa3r("ingest", raw, *debug, "--dataset", "one", "--scenes", "scene0000_00, scene0002_00")
    assert one.out.startswith("2 scenes (2 new), 8 of 8 frames"), one
    two = spa3r("ingest", raw, *debug, "--dataset", "two", "--scenes", "scene0001_00")
    assert two.out.startswith("1 scene (1 new), 4 of 4 frames"), two
    unknown = spa3r("ingest", raw, *debug, "--dataset", "two", "--scenes", "scene0042_00")
    refused(unknown, "scene0042_00")
    both = spa3r("merge", "both", "one", "two", *debug)
    assert both.code == 0 and both.out.startswith("3 scenes, 12 of 12 frames, in "), both
    shown = spa3r("show", "scene0001_00", "--dataset", "both", *debug)
    assert shown.code == 0, shown


def test_no_scene_is_no_choice_of_scenes(spa3r: Command, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        spa3r("ingest", "raw", "--scenes", " , ")
    assert ended.value.code == 2 and "names no scene" in capsys.readouterr().err


def test_doctor_answers(spa3r: Command) -> None:
    ended = spa3r("doctor")
    assert ended.code == 0 and "teacher rgbd" in ended.out


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder of the recipe `debug`, taught by rgbd."""
    return save_untrained(tmp_path_factory.mktemp("encoder"))


def test_photos_need_another_teacher(spa3r: Command, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=3)["images"]):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.jpg"), image)
    ended = spa3r("encode", "photos", "-o", "x.safetensors", "--encoder", encoder)
    assert ended.code == 1 and ended.errors[-1] == (
        "spa3r: photos without depth need a VGGT-taught encoder; this one was taught by rgbd"
    )
    assert not (tmp_path / "x.safetensors").exists()


def test_libraries_say_nothing_of_their_own_affairs(spa3r: Command) -> None:
    """Where credentials come from, which endpoint is asked: a line each, for every client."""
    for library in (names := ("botocore", "aiobotocore")):
        logging.getLogger(library).setLevel(logging.NOTSET)
    spa3r("show", "nowhere")
    assert {logging.getLogger(library).level for library in names} == {logging.WARNING}
