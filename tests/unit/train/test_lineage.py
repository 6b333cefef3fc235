"""What is written down of an encoder's origin, and what is said of it when pieces change."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from spa3r import schema, storage
from spa3r.errors import TrainingError
from spa3r.hub import Spa3REncoder
from spa3r.train.lineage import trace
from spa3r.train.links import Link, links_of
from spa3r.train.lives import lives_of, note_life
from spa3r.train.origin import LINEAGE, Origin, card_lineage, lineage_of
from tests.untrained import save_untrained

SHARDS = {"scene0000_00": "a" * 64, "scene0001_00": "b" * 64}
SPLITS = {"scene0000_00": "train", "scene0001_00": "val"}
DATA_HASH = schema.data_hash(SHARDS, SPLITS)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of made-up data in run/encoder, the one that it began from in bare/."""
    folder = tmp_path_factory.mktemp("encoders")
    student = Spa3REncoder.from_pretrained(save_untrained(folder / "bare"))
    student.card.provenance.update(data_hash=DATA_HASH, target_hash="t" * 64, datasets=["rooms"])
    student.save_pretrained(folder / "run" / "encoder")
    return folder


@pytest.fixture
def places(encoders: Path, tmp_path: Path) -> Origin:
    """A run and all it came from, as far as lineage reads it."""
    shutil.copytree(encoders, tmp_path, dirs_exist_ok=True)
    return write_pieces(tmp_path)


def write_pieces(tmp_path: Path) -> Origin:
    """All that a run with an encoder of DATA_HASH came from."""
    (tmp_path / "scans").mkdir()
    shards = {
        "dataset": "rooms", "data_hash": DATA_HASH, "shards": SHARDS, "splits": SPLITS,
        "scenes": 2, "frames": 40, "announced": 48, "dropped": {"blur": 8, "stride": 0},
        "failures": {"scene0002_00": "empty"}, "kept_out": {}, "spec": {"stride": 1},
    }  # fmt: skip
    storage.write_json(tmp_path / "shards" / "manifest.json", shards)
    storage.write_json(tmp_path / "shards" / schema.ROOT, {"root": str(tmp_path / "scans")})
    for scene in SHARDS:
        sidecar = {"counts": {"signature": scene[::-1]}}
        storage.write_json(tmp_path / "shards" / f"{scene}.done.json", sidecar)
    references = storage.read_json(tmp_path / "run" / "encoder" / "config.json")["references"]
    for split, digest in (("train", "t" * 64), ("val", "v" * 64)):
        targets = {
            "split": split, "target_hash": digest, "data_hash": DATA_HASH, "scenes": 1, "clips": 6,
            "bytes": 600, "dropped": {}, "teacher": {"dtype": "float16"},
            "references": references,
        }  # fmt: skip
        storage.write_json(tmp_path / split / "manifest.json", targets)
    (tmp_path / "run" / "checkpoints").mkdir()
    note_life(tmp_path / "run", 0)
    return Origin(
        run=str(tmp_path / "run"), checkpoints=str(tmp_path / "run" / "checkpoints"),
        targets=str(tmp_path / "train"), held_out=str(tmp_path / "val"),
        shards=str(tmp_path / "shards"), init_from=str(tmp_path / "bare"),
    )  # fmt: skip


@pytest.fixture
def encoder(places: Origin) -> Path:
    return Path(places.run) / "encoder"


def states(record: Mapping[str, Any]) -> dict[str, str]:
    """Part (and what it is of, where there are several) -> state."""
    found = {}
    for link in links_of(record, None):
        name = f"{link.part} {link.what.split()[0]}" if link.part == "targets" else link.part
        found[name] = link.state
    return found


def test_all_pieces_are_recorded_and_found(places: Origin, encoder: Path) -> None:
    record = lineage_of(encoder, places)
    assert json.loads((Path(places.run) / LINEAGE).read_text()) == record
    assert record["recipe"]["settings"]["name"] == "debug"
    assert [(t["split"], t["hash"][0], t["clips"]) for t in record["targets"]] == [
        ("train", "t", 6), ("val", "v", 6),
    ]  # fmt: skip
    assert record["licences"]["geometric rgbd"]["name"] == "apache-2.0"
    (scans,) = record["scans"]
    assert (scans["splits"], scans["frames"], scans["failures"]) == ({"train": 1, "val": 1}, 40, 1)
    assert scans["root"].endswith("/scans") and len(scans["hash"]) == 16
    assert len(record["parent"]["hash"]) == 16 and record["code"]["code_hash"]
    assert states(record) == {
        "run": "same", "parent": "same", "recipe": "same", "code": "", "packages": "",
        "targets training": "same", "targets held-out": "same", "teacher": "same",
        "shards": "same", "scans": "same",
    }  # fmt: skip


def change_json(path: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        storage.write_json(folder / path, storage.read_json(folder / path) | values)

    return change


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / path)


@pytest.mark.parametrize(
    ("part", "state", "change"),
    [
        ("run", "changed", lambda f: save_untrained(f / "run" / "encoder", seed=3)),
        ("run", "gone", remove("run")),
        ("parent", "changed", lambda f: save_untrained(f / "bare", seed=4)),
        ("targets training", "changed", change_json("train/manifest.json", target_hash="x")),
        ("targets training", "gone", remove("train")),
        ("teacher", "unknown", remove("train")),
        ("teacher", "changed", change_json("train/manifest.json",
                                           references={"geometric": {"hash": "other"}})),
        ("shards", "changed", change_json("shards/manifest.json", data_hash="x")),
        ("shards", "changed", change_json("shards/manifest.json", splits={})),
        ("shards", "gone", remove("shards")),
        ("scans", "gone", remove("shards")),
        ("scans", "gone", lambda f: (f / "shards" / "scene0001_00.done.json").unlink()),
        ("scans", "changed", change_json("shards/scene0001_00.done.json",
                                         counts={"signature": "touched"})),
    ],
)  # fmt: skip
def test_what_changed_or_went_is_said(
    part: str, state: str, change: Callable[[Path], Any], places: Origin, encoder: Path
) -> None:
    record = lineage_of(encoder, places)
    change(Path(places.run).parent)
    assert states(record)[part] == state


def test_the_state_of_then_is_named_where_it_was_kept(places: Origin, encoder: Path) -> None:
    record = lineage_of(encoder, places)
    kept = Path(places.shards) / "versions" / f"{DATA_HASH[:12]}.json"
    storage.write_json(kept, {})
    change_json("shards/manifest.json", shards={}, splits={}, data_hash=schema.data_hash({}, {}))(
        Path(places.run).parent
    )
    (shards,) = [link for link in links_of(record, None) if link.part == "shards"]
    assert shards.state == "changed" and str(kept) in shards.note


def test_a_run_that_is_used_again_keeps_its_record(
    places: Origin, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lineage_of(encoder, places)
    noted(Path(places.run), 2, "b", monkeypatch)
    assert lineage_of(encoder, places) == first
    save_untrained(encoder, seed=5)
    assert lineage_of(encoder, places)["code"]["code_hash"] == "b" * 16


def noted(run: Path, after: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with that code carries the run on."""
    facts = {"code_version": f"v-{code}", "code_dirty": "false", "code_hash": code * 16}
    monkeypatch.setattr("spa3r.train.lives.code_facts", lambda: facts)
    note_life(run, after)


def test_every_code_that_trained_a_run_is_said(
    places: Origin, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(places.run)
    (run / "lives.json").unlink()
    change_json("config.json", provenance={
        **storage.read_json(encoder / "config.json")["provenance"], "steps": 9,
    })(encoder)  # fmt: skip
    for after, code in ((0, "a"), (3, "b"), (3, "b"), (6, "x"), (5, "b"), (7, "c")):
        noted(run, after, code, monkeypatch)
    noted(tmp := run.with_name("other"), 0, "d", monkeypatch)  # what registers it is other code
    assert [life["after"] for life in lives_of(run)] == [0, 3, 5, 7] and lives_of(tmp)
    record = lineage_of(encoder, places)
    assert record["code"]["code_hash"] == "c" * 16
    links = [link for link in links_of(record, None) if link.part in ("code", "packages")]
    assert [(link.what, link.hash[:1]) for link in links[:-1]] == [
        ("v-a, steps 1 to 3", "a"), ("v-b, steps 4 to 7", "b"), ("v-c, steps 8 to 9", "c"),
    ]  # fmt: skip
    assert links[-1].part == "packages" and "steps" not in links[-1].what
    text = str(trace(None, str(encoder)))
    assert "v-a, steps 1 to 3" in text and "v-c, steps 8 to 9" in text


def test_steps_that_nobody_noted_are_not_recorded(
    places: Origin, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(places.run) / "lives.json").unlink()
    noted(Path(places.run), 4, "b", monkeypatch)
    links = [x for x in links_of(lineage_of(encoder, places), None) if x.part == "code"]
    assert links[0].state == "not recorded" and links[0].what.endswith("steps 1 to 4")
    (Path(places.run) / "lives.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"lives\.json: not a list of processes; delete it"):
        lives_of(places.run)


def test_nothing_is_guessed(encoder: Path) -> None:
    found = states(card_lineage(encoder))
    assert found.pop("recipe") == "same"
    assert set(found.values()) == {"not recorded"} and "scans" in found
    text = str(trace(None, str(encoder)))
    assert text.startswith("encoder    not registered\n")
    assert text.splitlines()[-1].startswith("not recorded: run, code, packages, targets, teacher")


def test_a_folder_is_traced_by_the_record_beside_it(places: Origin, encoder: Path) -> None:
    lineage_of(encoder, places)

    def look(scans: Mapping[str, Any]) -> Any:
        return "changed", f"one of {scans['scenes']} was touched"

    found = trace(None, str(encoder), look_at_scans=look)
    assert found.broken == {"changed": ["scans"]}
    assert str(found).splitlines()[-1] == "changed: scans"
    assert "8 blur; one of 2 was touched" in str(found) and "0 stride" not in str(found)
    plain = found.to_json()
    assert json.loads(json.dumps(plain)) == plain and plain["links"][0]["part"] == "encoder"
    whole = trace(None, str(encoder))
    assert not whole.broken and "all 9 pieces are there" in str(whole)


def test_no_password_is_shown(encoder: Path) -> None:
    record = card_lineage(encoder)
    record["targets"][0]["folder"] = "s3://lab:hunter2@host/bucket"
    links = tuple(Link(part="targets", what="", where=t["folder"]) for t in record["targets"])
    from spa3r.train.lineage import Lineage

    assert "hunter2" not in str(Lineage(model="m", links=links))
