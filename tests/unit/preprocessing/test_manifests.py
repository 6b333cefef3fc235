"""manifest.json and its table: one truth, kept versions, never two halves of different ones."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from preprocessing import manifests, shards
from preprocessing.dataset import ingest_dataset
from preprocessing.manifests import Manifest
from spa3r import schema, storage
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable
from spa3r.errors import ShardError
from spa3r.plain import to_dict
from spa3r.schema import data_hash
from tests.conftest import REPO
from tests.sens_maker import make_dataset

SPEC = IngestSpec(width=84, multiple=14)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "raw", scans=2, frames=3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(raw: Path, out: Path, spec: IngestSpec = SPEC) -> Manifest:
    return ingest_dataset(str(raw), "mine", spec, str(out))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_what_it_says(raw: Path, out: Path):
    manifest = run(raw, out)
    value = read(out / "manifest.json")
    assert value["schema"] == schema.SCHEMA_VERSION == 2
    assert (value["dataset"], value["scenes"], value["announced"], value["frames"]) == (
        "mine", 2, 6, 6,
    )  # fmt: skip
    assert value["spec"] == to_dict(SPEC)
    assert value["data_hash"] == manifest.data_hash == data_hash(value["shards"], value["splits"])
    assert value["splits"] == {"scene0000_00": "train", "scene0001_00": "val"}
    assert value["table"] == shards.describe(str(out / "manifest.parquet"))._asdict()
    columns = pq.read_schema(out / "manifest.parquet").names
    assert columns == [name for name, _ in schema.MANIFEST_COLUMNS] and "mask_offset" in columns


def test_the_hash_is_of_shards_and_splits():
    shards_of, splits = {"a": "1", "b": "2"}, {"a": "train", "b": "val"}
    first = data_hash(shards_of, splits)
    assert data_hash(dict(reversed(shards_of.items())), splits) == first and len(first) == 64
    assert data_hash(shards_of, splits | {"b": "train"}) != first
    assert data_hash(shards_of | {"b": "3"}, splits) != first


def test_every_version_can_be_looked_up_later(raw: Path, out: Path):
    hashes = [run(raw, out).data_hash]
    kept = out / "versions" / f"{hashes[0][:12]}.json"
    first = kept.read_bytes()
    assert first == (out / "manifest.json").read_bytes()
    (raw / "scannetv2_val.txt").write_text("")
    hashes.append(run(raw, out).data_hash)
    assert len(set(hashes)) == 2 and kept.read_bytes() == first
    assert {p.stem for p in (out / "versions").iterdir()} == {h[:12] for h in hashes}
    (raw / "scannetv2_val.txt").write_text("scene0001_00\n")
    assert run(raw, out).data_hash == hashes[0] and kept.read_bytes() == first


def test_a_version_is_never_overwritten(raw: Path, out: Path):
    manifest = run(raw, out)
    kept = out / "versions" / f"{manifest.data_hash[:12]}.json"
    before = kept.read_bytes()
    run(raw, out, replace(SPEC, max_drop_share=0.5))  # same data, other words
    assert read(out / "manifest.json")["spec"]["max_drop_share"] == 0.5
    assert kept.read_bytes() == before


def test_table_and_json_never_belong_to_different_runs(
    raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    run(raw, out)
    (raw / "scannetv2_val.txt").write_text("")

    def full(url: str, value: object) -> None:
        raise ShardError(f"{url}: cannot be written")

    monkeypatch.setattr(shards, "write_json", full)
    with pytest.raises(ShardError, match="cannot be written"):
        run(raw, out)
    assert not (out / "manifest.json").exists()
    monkeypatch.undo()
    run(raw, out)
    assert (
        FrameTable(out).split("scene0001_00")
        == read(out / "manifest.json")["splits"]["scene0001_00"]
    )


@pytest.mark.parametrize("name", ["manifest.parquet", "manifest.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "nonsense"])
def test_a_damaged_manifest_is_written_again(raw: Path, out: Path, name: str, how: str):
    run(raw, out)
    data = (out / name).read_bytes()
    match how:
        case "gone":
            (out / name).unlink()
        case "cut":
            (out / name).write_bytes(data[:-9])
        case "nonsense":
            (out / name).write_bytes(b"[1]")
    assert run(raw, out).reused == 2
    assert (out / name).read_bytes() == data


def test_leftovers_of_killed_runs_go(raw: Path, out: Path):
    run(raw, out)
    for folder in (out, out / "versions"):
        (folder / ".x.json.0123.tmp").write_bytes(b"half")
    assert manifests.remove_leftovers(str(out)) == 2
    run(raw, out)
    assert not list(out.rglob("*.tmp"))


def test_a_lost_scene_table_is_named(raw: Path, out: Path, tmp_path: Path):
    run(raw, out)
    path = out / "scene0000_00.frames.parquet"
    path.write_bytes(bytes(path.stat().st_size))  # of the right size, so the scene is re-used
    (raw / "scannetv2_val.txt").write_text("")
    with pytest.raises(ShardError, match=r"scene0000_00\.frames\.parquet: unreadable .*delete it"):
        run(raw, out)
    path.unlink()
    run(raw, out)
    assert storage.exists(out / "manifest.json")


def test_the_documentation_names_every_column_key_and_reason(raw: Path, out: Path):
    text = (REPO / "docs" / "data.md").read_text()
    section = text[text.index("## Which frames are kept") : text.index("## Resizing, lenses and K")]
    run(raw, out)
    keys = {*read(out / "manifest.json"), "merged"} - {"schema"}
    columns = {name for name, _ in schema.MANIFEST_COLUMNS}
    for name in keys | columns | set(schema.DROP_REASONS):
        assert f"`{name}`" in section, name
