"""From a tuned model to a registered one that names its encoder, and back to the scans."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from flows.lineage import lineage
from spa3r import storage
from spa3r.errors import WeightsError
from spa3r.train import registry, tracking
from spa3r.train.champion import Verdict, promote, rollback
from spa3r.train.lineage import Lineage, trace
from spa3r.train.registry import VLM_HASH
from spa3r.train.tune import Tuned, tune
from spa3r.train.vlm_registry import VLM_NAME, VlmOrigin, register_vlm
from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.unit.train.test_lineage import DATA_HASH, write_pieces
from tests.unit.train.tune_rooms import Colours, make_colours, recipe
from tests.untrained import save_untrained, untrained_photographer

RECIPE = recipe(train__steps=2, train__checkpoint_every=2)
MODEL = f"models:/{VLM_NAME}@candidate"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with all its pieces, registered as version 1."""
    folder = tmp_path_factory.mktemp("home")
    student = untrained_photographer(folder / "teacher")
    student.card.provenance.update(data_hash=DATA_HASH, target_hash="t" * 64, datasets=["rooms"])
    student.save_pretrained(folder / "run" / "encoder")
    save_untrained(folder / "bare")
    origin = write_pieces(folder)
    uri = f"sqlite:///{folder}/store/mlflow.db"
    with tracking.track(uri, RECIPE, {"what": "encoder"}) as tracker:
        assert registry.register_encoder(tracker, Path(origin.run) / "encoder", origin)[0] == "1"
    return folder


@pytest.fixture(scope="module")
def rooms(home: Path) -> Colours:
    return make_colours(home / "colours", videos=2, questions=2)


@pytest.fixture(scope="module")
def tuned(home: Path, rooms: Colours) -> Tuned:
    """Tuned with that version and registered as version 1 of its own name."""
    uri = f"sqlite:///{home}/store/mlflow.db"
    with tracking.track(uri, RECIPE, {"what": "vlm"}) as tracker:
        tracker.begin()
        places = rooms.places(encoder="models:/spa3r-encoder/1", encoder_version="1")
        done = tune(RECIPE, places, home / "vlm-run", on_line=tracker.log_line)
        origin = VlmOrigin(run=str(home / "vlm-run"), sets=places.sets)
        assert register_vlm(tracker, done.vlm, origin) == ("1", False)
        assert register_vlm(tracker, done.vlm, origin) == ("1", True), "twice is one version"
    return done


@pytest.fixture
def client(home: Path, tuned: Tuned) -> Iterator[mlflow.MlflowClient]:
    yield tracking.connect(f"sqlite:///{home}/store/mlflow.db")


def test_a_version_names_its_encoder_its_base_and_its_sets(
    client: mlflow.MlflowClient, tuned: Tuned, rooms: Colours
) -> None:
    version = registry.named(client, MODEL)
    tags, card = version.tags, Spa3VLM.from_pretrained(tuned.vlm).card
    encoder = registry.named(client, "models:/spa3r-encoder/1")
    assert tags[VLM_HASH] == card.hash and version.aliases == ("candidate",)
    assert (tags["encoder_name"], tags["encoder_version"]) == ("spa3r-encoder", "1")
    assert tags["encoder_hash"] == version.encoder_hash == encoder.encoder_hash
    assert tags["encoder_weights_hash"] == card.encoder["hash"]
    assert (tags["recipe"], tags["steps"], tags["instruction_sets"]) == ("colours", "2", "colours")
    assert tags["set_colours"] == card.provenance["sets"]["colours"]
    assert tags["base_hash"] == card.base["hash"]
    assert all(tags[name] for name in ("base", "code_hash", "environment_hash", "run_folder"))
    run = client.get_run(version.run_id)
    assert run.data.params["train.steps"] == "2" and run.data.params["vlm.base"] == "tiny"
    assert run.data.tags["unit.train/text"].startswith("nats")


def test_it_loads_by_name_and_through_mlflow(
    client: mlflow.MlflowClient, tuned: Tuned, rooms: Colours
) -> None:
    images = [str(path) for path in sorted((rooms.folder / "media" / "video0").iterdir())][:2]
    loaded = Spa3VLM.from_pretrained(MODEL)
    assert loaded.hash == Spa3VLM.from_pretrained(tuned.vlm).hash
    answer = loaded.ask(images, "Which colour is it?", max_new_tokens=4)
    found = mlflow.pyfunc.load_model(MODEL).predict(
        {"images": images, "question": "Which colour is it?", "max_new_tokens": 4}
    )
    assert found["answer"] == answer.text and len(found["frames"]) == 2


def test_lineage_walks_to_the_encoder_and_on_to_the_scans(
    client: mlflow.MlflowClient, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (MODEL, str(tuned.vlm)):
        found = trace(client, model)
        parts = [link.part for link in found.links]
        assert parts == [
            *("version", "scores", "tracked", "run", "recipe", "code", "packages", "set", "base"),
            *("encoder", "version", "scores", "tracked", "run", "parent", "recipe", "code"),
            *("packages", "targets", "targets", "teacher", "shards", "scans"),
        ]  # fmt: skip
        assert found.broken == {}, str(found)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    said = lineage(MODEL)
    assert "spa3-vlm version 1 (candidate)" in said and "rooms: 2 scans" in said
    (own,) = [link for link in found.links if link.part == "set"]
    assert own.what == "colours: 5 conversations" and len(own.hash) == 64
    assert "models:/spa3r-encoder/1" in str(found)
    bare = trace(None, str(tuned.vlm))
    assert bare.links[0].what == "not registered" and "scans" not in bare.broken


def test_pieces_that_change_are_seen(
    client: mlflow.MlflowClient, tuned: Tuned, home: Path, tmp_path: Path
) -> None:
    def broken(change: Path, away: Path | None = None) -> Lineage:
        kept = shutil.move(str(change), tmp_path / "kept")
        if away is not None:
            shutil.copytree(kept, away)
            storage.write_json(away / "manifest.json", {"format": "x", "hash": "another"})
        try:
            return trace(client, MODEL)
        finally:
            shutil.rmtree(change, ignore_errors=True)
            shutil.move(kept, change)

    rooms = home / "colours" / "instructions" / "colours"
    assert broken(rooms).broken == {"gone": ["set"]}
    assert broken(rooms, away=rooms).broken == {"changed": ["set"]}
    assert broken(home / "vlm-run").broken == {"gone": ["run"]}
    assert broken(home / "scans").broken == {}, "scans are looked at by whom the command asks"
    assert broken(home / "shards").broken == {"gone": ["shards", "scans"]}
    fusion = home / "vlm-run" / "vlm" / "fusion.safetensors"
    whole = fusion.read_bytes()
    fusion.write_bytes(whole[:-4] + b"\x00\x00\x80\x3f")
    found = trace(client, MODEL)
    assert found.broken == {"changed": ["run"]} and "fusion.safetensors" in str(found)
    fusion.write_bytes(whole)
    assert not trace(client, MODEL).broken


def test_aliases_move_and_move_back(client: mlflow.MlflowClient, tuned: Tuned) -> None:
    with pytest.raises(WeightsError, match="spa3-vlm has no version with alias champion: run"):
        registry.require(client, "champion", name=VLM_NAME)
    version = registry.named(client, MODEL)
    verdict = Verdict(
        outcome="promoted", reason="better than all controls", guards_passed=True,
        guards_reason="r", dataset="vsi-bench", target_hash="q", against="", margins={},
        evidence={}, gate="suite_gate",
    )  # fmt: skip
    assert "is champion" in promote(client, version, verdict)
    assert registry.require(client, "champion", name=VLM_NAME).version == "1"
    assert registry.find(client, "champion") is None, "of the encoders there is none"
    with pytest.raises(WeightsError, match="nothing to roll back"):
        rollback(client, name=VLM_NAME)


def test_a_model_whose_encoder_is_not_the_registered_one_is_refused(
    client: mlflow.MlflowClient, tuned: Tuned, tmp_path: Path
) -> None:
    other = untrained_photographer(tmp_path / "teacher", seed=5)
    with pytest.raises(WeightsError, match="was tuned with"):
        Spa3VLM.from_pretrained(MODEL, encoder=other)
