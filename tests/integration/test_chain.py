"""`spa3r demo` on a few rooms, twice, and everything a user does with what it leaves behind."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import cv2
import mlflow
import pytest

from flows.lineage import lineage
from spa3r.eval.controls import CONTROLS
from spa3r.eval.suite import METHODS
from spa3r.recipes import catalogue
from tests.scan_arrays import scan_arrays

pytestmark = pytest.mark.timeout(600)
SPA3R = Path(sys.executable).with_name("spa3r")
STAGES = ("rooms", "ingest", "targets", "pretrain", "evaluate", "promote",
          "questions", "tune", "evaluate-vlm", "promote-vlm")  # fmt: skip
WORKING = tuple(stage for stage in STAGES if not stage.startswith("promote"))
TRAIN_ROOMS, VAL_ROOMS = 3, 2
# What a second run must leave as it is, byte for byte.
KEPT = ("rooms/**/*", "shards/**/*", "targets/**/*", "runs/**/*", "timings/*",
        "reports/*/field.json", "questions/**/*", "instructions/**/*", "features/**/*",
        "suites/*/*.parquet", "suites/*/*.json")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of the demo."""

    out: str
    errors: str
    cpu_seconds: float
    files: dict[str, str]

    def line(self, stage: str) -> str:
        found = re.search(rf"^  {stage} +(.*)$", self.out, re.MULTILINE)
        assert found, self.out
        return found[1]


def environment(home: Path) -> dict[str, str]:
    ours = {"SPA3R_HOME": str(home), "SPA3R_WORKERS": "1", "SPA3R_TRAIN_WORKERS": "0"}
    others = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
    return {k: v for k, v in os.environ.items() if k not in others} | ours


def spa3r(home: Path, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(a) for a in (SPA3R, *arguments)]
    return subprocess.run(
        command, env=environment(home), cwd=cwd, capture_output=True, text=True, timeout=500
    )


def run_demo(home: Path, cwd: Path) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = ("--rooms", TRAIN_ROOMS, "--val-rooms", VAL_ROOMS)
    done = spa3r(home, cwd, "demo", "--recipe", "debug", *size)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in KEPT
        for path in sorted(home.glob(pattern))
        if path.is_file()
    }
    return Run(done.stdout, done.stderr, seconds, files)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def first(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    cwd = tmp_path_factory.mktemp("cwd")
    run = run_demo(home, cwd)
    assert not list(cwd.iterdir()), "the demo wrote outside SPA3R_HOME"
    return run


@pytest.fixture(scope="module")
def second(home: Path, first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo(home, tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="module")
def client(home: Path, second: Run) -> mlflow.MlflowClient:
    """The registry after two runs."""
    return mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db", f"sqlite:///{home}/mlflow.db")


def test_the_first_run_does_every_stage_and_shows_it(first: Run, home: Path) -> None:
    for stage in STAGES:
        assert not first.line(stage).startswith("re-used"), first.line(stage)
    for stage in (*WORKING[:-1], "features"):
        assert re.search(rf"^{stage}: .*/s, \d+ s left", first.errors, re.MULTILINE), first.errors
    assert "Traceback" not in first.errors and "Traceback" not in first.out
    timed = [path.name.partition("-")[0] for path in (home / "timings").iterdir()]
    assert sorted(timed) == sorted({*WORKING, "suite"} - {"evaluate-vlm"})
    for pattern in ("shards/*/manifest.json", "targets/*/manifest.json", "runs/*/encoder/*",
                    "instructions/*/manifest.json", "questions/*/questions.jsonl",
                    "runs/*/vlm/config.json", "suites/*/predictions.parquet"):  # fmt: skip
        assert any(Path(name).match(pattern) for name in first.files), pattern


def test_its_last_lines_say_where_everything_is(first: Run, home: Path) -> None:
    assert f"sqlite:///{home}/mlflow.db" in first.out and (home / "mlflow.db").is_file()
    assert str(home / "prefect/prefect.db") in first.out
    assert (home / "prefect/prefect.db").is_file()
    assert "models:/spa3r-encoder@candidate" in first.out
    assert "models:/spa3-vlm@candidate" in first.out
    for command in ("xdg-open ", "mlflow ui ", "prefect server start", "spa3r encode ",
                    "spa3r ask ", "spa3r chat"):  # fmt: skip
        assert command in first.out, command


def test_the_second_run_reuses_every_finished_stage_and_says_so(first: Run, second: Run) -> None:
    for stage in WORKING:
        assert second.line(stage).startswith("re-used: "), second.line(stage)
    assert second.files == first.files
    assert second.cpu_seconds < 0.8 * first.cpu_seconds, "it did the work again"


def test_too_few_rooms_do_not_pass_the_gate(second: Run, client: mlflow.MlflowClient) -> None:
    reason = f"{VAL_ROOMS} held-out scenes, at least 8 are needed"
    assert second.line("evaluate").endswith(f"gate not passed: {reason}")
    assert second.line("promote").endswith(f"not promoted, there is no champion: {reason}")
    model = client.get_registered_model("spa3r-encoder")
    assert {alias: int(version) for alias, version in model.aliases.items()} == {"candidate": 1}
    tags = client.get_model_version("spa3r-encoder", "1").tags
    assert (tags["field_gate"], tags["field_gate_reason"]) == ("failed", reason)
    assert tags["field_gate_dataset"] == "rooms" and tags["field_gate_target_hash"]


def test_the_table_shows_every_kind_of_question_beside_the_controls(second: Run) -> None:
    for name in ("overall", "numerical", "object_counting", "route_planning"):
        assert re.search(rf"^  {name} +\d+( +\d+\.\d){{4}}( +[+-]\d+\.\d \(.*?\)){{3}}$",
                         second.out, re.MULTILINE), second.out  # fmt: skip
    head = r"^  task +questions +model +blind +no_geometry +shuffled +model - blind"
    assert re.search(head, second.out, re.MULTILINE)
    reason = f"{VAL_ROOMS} scenes of 4 tasks, at least 8 are needed"
    assert second.line("promote-vlm").endswith(f"not promoted, there is no champion: {reason}")


def test_the_vlm_is_registered_with_its_encoder_and_its_answers(
    home: Path, client: mlflow.MlflowClient
) -> None:
    versions = client.search_model_versions("name = 'spa3-vlm'")
    assert [str(v.version) for v in versions] == ["1"], "the second run registered again"
    tags = versions[0].tags
    encoder = client.get_model_version_by_alias("spa3r-encoder", "candidate")
    assert tags["encoder_version"] == str(encoder.version)
    assert tags["encoder_hash"] == encoder.tags["encoder_hash"]
    (asked,) = home.glob("instructions/rooms-*/manifest.json")
    assert tags["set_rooms"] == json.loads(asked.read_text())["hash"]
    assert (tags["verdict"], tags["answers_gate"]) == ("not promoted", "failed")
    assert tags["suite_scores"].startswith("vsi-bench by scorer strict: model ")
    run = client.get_run(str(versions[0].run_id))
    assert run.info.status == "FINISHED" and run.data.params["vlm.fusion.kind"] == "cross_attention"
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/text")]
    assert steps == [1, 2, 3, 4], "a step is missing or was logged twice"
    for method in METHODS:
        assert f"suite/vsi-bench/strict/{method}" in run.data.metrics, method
    folder = tags["answers.vsi-bench"]
    kept = {Path(a.path).name for a in client.list_artifacts(run.info.run_id, folder)}
    assert kept == {"answers.json", "scores-strict.json", "report-strict.html"}


def test_lineage_leads_from_the_vlm_through_its_encoder_to_the_scans(
    home: Path, second: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    told = lineage("models:/spa3-vlm@candidate")
    parts = [line.split()[0] for line in told.splitlines() if line[:1].strip()]
    wanted = ("version", "verdict", "run", "recipe", "set", "base", "encoder", "version", "targets",
              "shards", "scans")  # fmt: skip
    rest = iter(parts)
    assert all(part in rest for part in wanted), parts  # in this order
    assert re.search(r"^all \d+ pieces are there", told, re.MULTILINE), told


def test_the_printed_question_is_answered(home: Path, second: Run, tmp_path: Path) -> None:
    """A model of four steps says nothing of use; it is asked all the same."""
    scan = home / f"rooms/scans/scene{TRAIN_ROOMS:04d}_00"
    assert f'spa3r ask {scan} "How many chairs are in this room?"' in second.out
    done = spa3r(home, tmp_path, "ask", scan, "How many chairs are in this room?")
    assert done.returncode == 0 and "asking about 2 views" in done.stderr, done.stderr


def test_the_version_and_its_run_hold_the_record(home: Path, client: mlflow.MlflowClient) -> None:
    versions = client.search_model_versions("name = 'spa3r-encoder'")
    assert [str(v.version) for v in versions] == ["1"], "the second run registered again"
    tags = versions[0].tags
    (targets,) = home.glob("targets/rooms-train-*/manifest.json")
    hashes = json.loads(targets.read_text())
    assert (tags["recipe"], tags["teacher_kind"]) == ("debug", "rgbd")
    assert tags["data_hash"] == hashes["data_hash"] and tags["target_hash"] == hashes["target_hash"]
    run = client.get_run(str(versions[0].run_id))
    assert run.info.status == "FINISHED" and run.data.params["train.steps"] == "12"
    for method in ("model", *CONTROLS):
        assert f"field/{method}/geo/r2" in run.data.metrics, method
    assert [m for m in run.data.metrics if not run.data.tags.get(f"unit.{m}")] == []
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/total")]
    assert steps == list(range(1, 13)), "a step is missing or was logged twice"
    folder = tags["evaluation"]
    assert folder.startswith("evaluation/rooms-") and "geo/r2 " in tags["field_scores"]
    kept = {a.path for a in client.list_artifacts(run.info.run_id, folder)}
    assert kept == {f"{folder}/field.json", f"{folder}/report.html"}


def test_lineage_leads_from_the_version_back_to_the_scans(
    home: Path, second: Run, tmp_path: Path
) -> None:
    done = spa3r(home, tmp_path, "lineage", "models:/spa3r-encoder@candidate")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    parts = [line.split()[0] for line in lines if line[:1].strip()]
    assert parts == ["version", "scores", "scores", "verdict", "tracked", "run", "recipe", "code",
                     "packages", "targets", "targets", "teacher", "teacher", "shards", "scans",
                     "all"]  # fmt: skip
    assert lines[-1] == "all 10 pieces are there and have their recorded hashes", done.stdout
    assert f"now: {TRAIN_ROOMS + VAL_ROOMS} as they were read" in done.stdout


class Links(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "poster") or (tag == "link" and name == "href"):
                self.pictures += tag == "img"
                if not str(value).startswith("data:"):
                    self.fetched.append(f"{tag} {str(value)[:80]}")


@pytest.mark.parametrize("place", ["reports/*/report.html", "suites/*/report-strict.html"])
def test_the_report_is_one_file_that_fetches_nothing(place: str, home: Path, second: Run) -> None:
    (report,) = home.glob(place)
    assert str(report) in second.out
    text = report.read_text()
    page = Links()
    page.feed(text)
    assert not page.fetched and page.pictures > 3
    assert "@import" not in text and not re.search(r"url\((?!['\"]?data:|#)", text)
    said = "rgbd" if place.startswith("reports") else "no geometry"
    assert said in re.sub(r"<style.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL)[:3000]


PREDICT = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
found = mlflow.pyfunc.load_model("models:/spa3r-encoder@candidate").predict(sys.argv[2])
print(json.dumps([list(found["latents"].shape), str(found["latents"].dtype)]))
"""


def test_mlflow_loads_the_candidate_from_anywhere(home: Path, second: Run, tmp_path: Path) -> None:
    scan = home / "rooms/scans/scene0000_00"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, f"sqlite:///{home}/mlflow.db", str(scan)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = catalogue.get("debug").model
    assert json.loads(done.stdout) == [[model.num_latents, model.width], "float16"]


def test_encode_writes_a_scene_that_show_describes(home: Path, second: Run, tmp_path: Path) -> None:
    scan = home / f"rooms/scans/scene{TRAIN_ROOMS:04d}_00"
    encoded = spa3r(home, tmp_path, "encode", scan, "-o", "x.safetensors", "--num-views", 5)
    assert encoded.returncode == 0, encoded.stderr
    model = catalogue.get("debug").model
    said = f"x.safetensors: {model.num_latents} latents x {model.width} "
    assert encoded.stdout.startswith(said) and "from 5 views of 6 x 8 patches" in encoded.stdout
    shown = spa3r(home, tmp_path, "show", "x.safetensors")
    assert (shown.returncode, shown.stdout) == (0, encoded.stdout)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_photos_are_refused_in_these_words(home: Path, second: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=2)["images"]):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.jpg"), image)
    done = spa3r(home, tmp_path, "encode", "photos", "-o", "x.safetensors")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "spa3r: photos without depth need a VGGT-taught encoder; this one was taught by rgbd",
    )
    assert not (tmp_path / "x.safetensors").exists()


def test_a_lost_stage_is_made_again_with_the_same_bytes(
    home: Path, second: Run, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    (run,) = home.glob("runs/debug-rooms-*")
    shutil.rmtree(run)
    done = spa3r(home, tmp_path, "pretrain", "--recipe", "debug")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith("re-used")
    for path in sorted(run.glob("encoder/*")):
        name = str(path.relative_to(home))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == second.files[name], name
    assert len(client.search_model_versions("name = 'spa3r-encoder'")) == 1
