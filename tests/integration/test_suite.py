"""A suite from question file to scores, with a tiny Spa3-VLM that knows nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.answers import Answers
from flows.settings import Settings
from flows.suite_report import write_report
from flows.suite_run import Asked, SuiteRun
from flows.suite_stage import rescored, run_suite
from spa3r.cli import main
from spa3r.errors import ConfigError, MediaError, PromptError, ShardError
from spa3r.eval import answering
from spa3r.eval import prediction_files as files
from spa3r.eval.suite import METHODS
from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.suite_makers import picture, view_doc, write_jsonl
from tests.tiny_vlm import tiny_config, tiny_vlm
from tests.untrained import untrained_photographer

SCENES = 4


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Spa3VLM:
    encoder = untrained_photographer(tmp_path_factory.mktemp("vggt"))
    return tiny_vlm(encoder=encoder, config=tiny_config(image_width=84, max_frames=4), stir=True)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Two questions about each of four scenes of two views."""
    folder = tmp_path_factory.mktemp("view-spatial")
    docs = [
        view_doc(
            n % SCENES, question=f"Where is the door {n}?", answer=("A. left", "B. right")[n % 2]
        )
        for n in range(2 * SCENES)
    ]
    for n, name in enumerate(sorted({name for doc in docs for name in doc["image_path"]})):
        picture(folder / "media" / name, n)
    questions = write_jsonl(folder / "test.jsonl", docs)
    return Asked(suite="view-spatial", questions=(str(questions),), media=str(folder / "media"))


def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SPA3R_HOME", str(home))
    return Settings.from_environment()


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short answers, and two parts."""
    monkeypatch.setattr(answering, "PART", 6)


@pytest.fixture(scope="module")
def run(vlm: Spa3VLM, asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> SuiteRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "PART", 6)
        here = settings(tmp_path_factory.mktemp("home"), patch)
        return run_suite(here, vlm, asked, batch_size=3)


def test_every_method_answers_every_question(run: SuiteRun) -> None:
    found = files.read_predictions(str(run.folder))
    assert tuple(found) == METHODS
    ids = {q.id for q in files.read_questions(str(run.folder))}
    assert all({one.question for one in some} == ids for some in found.values())
    assert {one.frames for one in found["model"]} == {("1.jpg", "2.jpg")}
    assert {one.frames for one in found["blind"]} == {()}
    raws = {method: [one.raw for one in some] for method, some in found.items()}
    assert len({tuple(some) for some in raws.values()}) == len(METHODS)  # each sees something else


def test_an_answer_is_what_asking_gives(run: SuiteRun, vlm: Spa3VLM, asked: Asked) -> None:
    question = files.read_questions(str(run.folder))[0]
    images = [Path(asked.media) / name for name in question.media]
    direct = vlm.ask(images, question.prompt, max_new_tokens=16).text
    found = {one.question: one.raw for one in files.read_predictions(str(run.folder))["model"]}
    assert found[question.id] == direct


def test_what_is_recorded(run: SuiteRun, vlm: Spa3VLM) -> None:
    meta = files.read_meta(str(run.folder))
    assert meta["model"]["hash"] == vlm.hash
    assert (meta["frames"], meta["decoding"], meta["max_new_tokens"]) == (4, "greedy", 16)
    assert "Reply only to the corresponding option" in meta["prompt"]
    scores = json.loads((run.folder / "scores-strict.json").read_text())
    assert scores["rows"][0]["name"] == "overall"
    assert set(scores["rows"][0]["differences"]) == set(METHODS[1:])
    answers = Answers.read(run.folder / "answers-strict.json")
    assert len(answers.questions) == 2 * SCENES
    assert set(answers.questions[0].scores) == set(METHODS)


def test_a_second_run_asks_nothing(
    run: SuiteRun, vlm: Spa3VLM, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spa3VLM, "answer_many", None)
    here = settings(run.folder.parent.parent, monkeypatch)
    again = run_suite(here, vlm, asked, batch_size=3)
    assert again.reused
    assert again.scores.to_json() == run.scores.to_json()


def test_a_killed_evaluation_goes_on_to_the_same_bytes(
    run: SuiteRun, vlm: Spa3VLM, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings(tmp_path, monkeypatch)
    write, written = files.write_part, []

    def then_die(folder: str, number: int, answers: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(number)
        write(folder, number, answers)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_part", then_die)
        with pytest.raises(KeyboardInterrupt):
            run_suite(here, vlm, asked, batch_size=3)
    (folder,) = here.suites.glob("view-spatial-*")
    with pytest.raises(ShardError, match="did not end"):
        rescored(folder)
    looked: list[int] = []
    monkeypatch.setattr(files, "write_part", lambda f, n, a: (looked.append(n), write(f, n, a)))
    again = run_suite(here, vlm, asked, batch_size=3)
    assert looked == [1]
    for name in (files.PREDICTIONS, files.QUESTIONS, "scores-strict.json"):
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_another_scorer_needs_no_model(run: SuiteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spa3VLM, "from_pretrained", None)
    official = rescored(run.folder, "official")
    assert official.scores.scorer == "official"
    assert official.scores.methods["model"].scale == 1
    assert (run.folder / "scores-official.json").exists()


def test_the_report_shows_right_and_wrong_answers(run: SuiteRun) -> None:
    write_report(run.folder / "report.html", run)
    page = (run.folder / "report.html").read_text()
    for told in ("Shuffled", "strict (this project", "Where is the door", "Table 2", "43.9"):
        assert told in page
    assert page.count("data:image") >= 2


def test_bad_input_is_told_before_anything_is_asked(
    vlm: Spa3VLM, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings(tmp_path, monkeypatch)
    lost = write_jsonl(tmp_path / "lost.jsonl", [view_doc(0), view_doc(77)])
    with pytest.raises(MediaError, match=r"scene0077_00/1\.jpg: missing"):
        run_suite(here, vlm, Asked(suite="view-spatial", questions=(str(lost),), media=asked.media))
    assert not list(here.suites.glob("view-spatial-*"))
    with pytest.raises(ConfigError, match="no images in it; name the root of view-spatial's"):
        run_suite(here, vlm, Asked(suite="view-spatial", questions=asked.questions, media=""))
    docs = [*(view_doc(n % SCENES) for n in range(20)), view_doc(3, question="why " * 25_000)]
    endless = write_jsonl(tmp_path / "long.jsonl", docs)
    monkeypatch.setattr(Spa3VLM, "answer_many", None)
    with pytest.raises(PromptError, match="question 20: ") as error:
        run_suite(
            here, vlm, Asked(suite="view-spatial", questions=(str(endless),), media=asked.media)
        )
    assert "\n" not in str(error.value)


def test_the_command_scores_anew(
    run: SuiteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(run.folder.parent.parent))
    line = ["evaluate", "--rescore", str(run.folder), "--scorer", "vlmevalkit"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "view-spatial" in printed
    assert "by scorer vlmevalkit, 8 questions about 4 scenes" in printed
    assert (run.folder / "report-vlmevalkit.html").exists()
    assert not (run.folder.parent.parent / "mlflow.db").exists()  # scoring makes no registry
