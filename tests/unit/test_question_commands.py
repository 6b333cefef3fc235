"""`spa3r questions` on a small home of generated rooms: what is written, and what goes wrong."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("open3d", reason="generated rooms need open3d", exc_type=ImportError)

from flows import question_stage
from flows.question_stage import QUESTIONS, questions_of
from flows.settings import Settings
from preprocessing.dataset import ingest_dataset
from preprocessing.questions.spec import COUNTING, FAMILIES, SIZE, QuestionSpec
from preprocessing.rooms.spec import RoomSpec
from preprocessing.rooms.writer import write_rooms
from spa3r.cli import main
from spa3r.data.instruction_sets import read_set
from spa3r.data.shards import FrameTable
from spa3r.errors import ConfigError, SceneError, ShardError
from spa3r.eval import question_files
from spa3r.lock import locked_folder
from spa3r.recipes import catalogue

RECIPE = "debug"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the shards of two training rooms and one held out."""
    home = tmp_path_factory.mktemp("home")
    spec = catalogue.get(RECIPE).ingest
    size = RoomSpec(width=128, height=96, frames=10)
    write_rooms(home / "rooms", range(1, 4), size, val_scenes=[3])
    out = home / "shards" / f"rooms-{spec.shard_hash()[:8]}"
    ingest_dataset(str(home / "rooms"), "rooms", spec, str(out))
    shutil.rmtree(home / "rooms")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPA3R_WORKERS", "2")
    return tmp_path / "home"


def run(spec: QuestionSpec | None = None) -> question_stage.StageResult:
    return question_stage.questions(recipe=RECIPE, spec=spec)


def written(home: Path) -> dict[str, bytes]:
    folders = (home / "questions", home / "instructions")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def test_both_splits_are_written_and_read_by_those_who_use_them(home: Path) -> None:
    spec = QuestionSpec(turns_per_conversation=1)
    result = run(spec)
    places = questions_of(Settings.from_environment(), recipe=RECIPE, spec=spec)
    table = FrameTable(places.media)
    learnt = read_set(places.train)
    assert {one.scene for one in learnt.instructions} <= set(table.scenes("train"))
    assert Path(learnt.media_root) == Path(places.media)
    assert {one.media_kind for one in learnt.instructions} == {"scan"}
    asked = question_files.read("vsi-bench", places.val)
    assert {one.scene.rpartition("/")[2] for one in asked} <= set(table.scenes("val"))
    first = next(one for one in learnt.instructions if one.question_type == COUNTING)
    other = next(one for one in asked if one.task == COUNTING)
    assert first.turns[0].text.startswith("<video>These are frames of a video.\nHow many ")
    assert other.prompt.startswith("These are frames of a video.\nHow many ")
    manifest = json.loads((Path(places.val) / "manifest.json").read_text())
    assert manifest["train"]["questions"] == len(learnt.instructions)
    assert manifest["val"]["questions"] == len(asked)
    assert manifest["train"]["rejected"][COUNTING]["only one of the category"] > 0
    assert learnt.manifest["dropped"][f"{COUNTING}: only one of the category"] > 0
    assert not result.reused
    assert str(len(asked)) in result.line
    assert set(FAMILIES) <= set(result.facts)
    assert "only one of the category" in result.facts[COUNTING]


def test_a_second_run_writes_nothing_and_new_ones_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    before = written(home)
    stamps = {path: path.stat().st_mtime_ns for path in home.rglob("questions.jsonl")}
    assert run().reused
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    for name in ("questions", "instructions"):
        shutil.rmtree(home / name)
    monkeypatch.setenv("SPA3R_WORKERS", "1")
    assert not run().reused
    assert written(home) == before
    other = QuestionSpec(seed=1)
    assert not run(other).reused
    assert len(list((home / "questions").iterdir())) == 2, "beside the first"


@pytest.mark.parametrize("damaged", ["questions/*/questions.jsonl", "questions/*/manifest.json",
                                     "instructions/*/instructions.parquet",
                                     "shards/*/scene0001_00.objects.json"])  # fmt: skip
def test_what_is_not_whole_or_not_true_any_more_is_made_again(home: Path, damaged: str) -> None:
    spec = QuestionSpec(per_family_per_scene=1, families=(SIZE, COUNTING))
    run(spec)
    before = written(home)
    (path,) = home.glob(damaged)
    if path.name.endswith(".objects.json"):
        objects = json.loads(path.read_text())
        objects["object_bboxes"]["chair"] = objects["object_bboxes"].pop("door")
        path.write_text(json.dumps(objects))
    elif path.name == "manifest.json":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    assert not run(spec).reused
    assert (written(home) == before) is not path.name.endswith(".objects.json")
    assert run(spec).reused


def test_a_dataset_that_nobody_annotated_ends_with_a_reason(home: Path) -> None:
    for path in home.glob("shards/*/*.objects.json"):
        path.unlink()
    with pytest.raises(SceneError, match=r"nothing can be asked .*the scene has no annotated"):
        run()
    assert not (home / "instructions").exists()


def test_held_out_scenes_alone_give_a_question_file(home: Path) -> None:
    for path in home.glob("shards/*/scene000[12]*.objects.json"):
        path.unlink()
    result = run()
    assert result.line.startswith("0 questions in 0 conversations")
    assert (Path(result.facts["held-out questions"]) / QUESTIONS).stat().st_size
    assert run().reused


def test_two_processes_do_not_write_the_same_questions(home: Path) -> None:
    """The one would take the other's half-written file for what a killed process left."""
    spec = QuestionSpec(per_family_per_scene=1, families=(SIZE,))
    folder = Path(questions_of(Settings.from_environment(), recipe=RECIPE, spec=spec).train)
    with locked_folder(folder, ShardError), pytest.raises(ShardError, match="is writing there"):
        run(spec)
    assert not run(spec).reused


def test_the_command_prints_the_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["questions", "--recipe", RECIPE, "--per-family", "1", "--turns", "2",
             "--families", f"{COUNTING},{SIZE}"]  # fmt: skip
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "held-out scenes" in lines[0]
    assert any(line.startswith(f"  {COUNTING}: ") and "not asked: " in line for line in lines)
    assert not any("direction" in line for line in lines)
    (folder,) = (home / "instructions").glob("[!.]*")
    assert max(len(one.turns) for one in read_set(folder).instructions) == 4


def test_errors_are_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["questions", "--recipe", RECIPE, "--families", "counting"]) == 1
    assert "unknown question families ['counting']" in capsys.readouterr().err
    assert main(["questions", "--recipe", RECIPE, "--dataset", "nothing"]) == 1
    assert "run `spa3r ingest" in capsys.readouterr().err
    with pytest.raises(ShardError):
        question_stage.questions(dataset="nothing", recipe=RECIPE)
    with pytest.raises(ConfigError):
        question_stage.questions(dataset="../up", recipe=RECIPE)
