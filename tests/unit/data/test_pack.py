"""Sequential shards: shuffled, the same bytes whoever makes them, one range a batch."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from webdataset.compat import WebDataset

from preprocessing import pack, shards
from preprocessing.lock import output_lock
from preprocessing.pack import pack_targets
from preprocessing.targets import write_targets
from spa3r import schema, storage
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.cached import CachedTargets
from spa3r.data.order import RunOrder
from spa3r.data.packed import PackedTargets
from spa3r.data.reader import Range
from spa3r.data.shards import FrameTable
from spa3r.errors import DamageError, ShardError
from tests.frames_maker import make_frames
from tests.killing import files_of

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=8)
SPEC = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets")
    table = FrameTable(make_frames(folder / "frames", {"a": 12, "b": 12}))
    write_targets(table, folder / "targets", clips=CLIPS, teacher=SPEC, split="train")
    return folder / "targets"


@pytest.fixture(scope="module")
def calm(targets: Path) -> Path:
    pack_targets(targets, targets.with_name("calm"), clips_per_shard=3)
    return targets.with_name("calm")


def test_every_clip_once_in_shards_of_one_kind_and_mixed_scenes(targets: Path, calm: Path) -> None:
    packed, cached = PackedTargets(calm), CachedTargets(targets)
    assert Counter(c.id for s in packed.shards for c in s) == Counter(c.id for c in cached.clips)
    for shard in packed.shards:
        assert len({(c.num_views, c.num_context, packed.grid_hw(c)) for c in shard}) == 1
        assert len(shard) <= 3
    assert any(len({clip.scene for clip in shard}) > 1 for shard in packed.shards)
    assert {name: x.tolist() for name, x in packed.stats.items()} == {
        name: x.tolist() for name, x in cached.stats.items()
    }
    assert packed.target_hash == cached.target_hash and packed.data_hash == cached.data_hash
    with pytest.raises(ShardError, match=r"holds the packed of its clips, .*cached"):
        CachedTargets(calm)
    with pytest.raises(ShardError, match="no sequential shards; run `spa3r pack`"):
        PackedTargets(targets)


def test_a_batch_is_one_range(calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedTargets(calm)
    order = RunOrder(packed.shards, 12, seed=0)
    asked: list[list[Range]] = []
    many = packed._reader.read_many
    monkeypatch.setattr(packed._reader, "read_many", lambda r: asked.append(list(r)) or many(r))
    sizes = []
    for index in range(order.batches_per_epoch):
        clips = order.batch(index)
        sizes.append(len(clips))
        assert packed.load(clips).clips == clips
    assert max(sizes) > 1 and [len(ranges) for ranges in asked] == [1] * len(sizes)
    # Any others come too, one by one.
    strangers = [shard[0] for shard in packed.shards if len(shard[0].frames) == 4]
    equal = [c for c in strangers if c.num_context == strangers[0].num_context][:2]
    assert packed.load(equal).clips == tuple(equal) and len(asked[-1]) == 2


@pytest.mark.parametrize("url", ["file", "memory"])
def test_the_same_bytes_whoever_makes_them(
    targets: Path, calm: Path, tmp_path: Path, url: str
) -> None:
    out = str(tmp_path / "out") if url == "file" else f"memory://pack-{tmp_path.name}"
    manifest = pack_targets(targets, out, clips_per_shard=3, workers=3)
    wanted = files_of(calm)
    assert {name: storage.read_bytes(storage.join(out, name)) for name in wanted} == wanted
    assert sorted(storage.list_names(out)) == sorted(wanted)
    again = pack_targets(targets, out, clips_per_shard=3)
    assert again == replace(manifest, reused=manifest.shards)
    loaded = PackedTargets(out)
    assert torch.equal(
        loaded.load(loaded.shards[0][:2]).geo_BVND,
        CachedTargets(targets).load(loaded.shards[0][:2]).geo_BVND,
    )


def test_what_was_stopped_goes_on(
    targets: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the third shard; what is finished is not made again."""
    made: list[str] = []
    clear = ["to stumble"]
    samples = pack._samples

    def stumble(source, unit, rows):  # type: ignore[no-untyped-def]
        made.append(unit.name)
        for sample in samples(source, unit, rows):
            yield sample
            if len(made) == 3 and clear:
                clear.pop()
                raise KeyboardInterrupt

    monkeypatch.setattr(pack, "_samples", stumble)
    with pytest.raises(KeyboardInterrupt):
        pack_targets(targets, tmp_path / "out", clips_per_shard=3)
    wanted = files_of(calm)
    for name, data in files_of(tmp_path / "out").items():
        assert data == wanted[name], name
    done = {name.removesuffix(".done.json") for name in files_of(tmp_path / "out")}
    assert 2 <= len(done & set(made)) < len(made)
    made.clear()
    pack_targets(targets, tmp_path / "out", clips_per_shard=3)
    assert files_of(tmp_path / "out") == wanted
    every = {name.removesuffix(".tar") for name in wanted if name.endswith(".tar")}
    assert sorted(made) == sorted(every - done)


def test_other_shards_take_the_place_of_earlier_ones(
    targets: Path, calm: Path, tmp_path: Path
) -> None:
    many = pack_targets(targets, tmp_path / "out", clips_per_shard=1)
    (tmp_path / "out" / "mine.txt").write_text("kept")
    few = pack_targets(targets, tmp_path / "out", clips_per_shard=3)
    assert many.shards > few.shards and many.pack_hash != few.pack_hash
    left = files_of(tmp_path / "out")
    assert left.pop("mine.txt") == b"kept" and left == files_of(calm)


def test_one_writer_at_a_time(targets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_lock(str(out)), pytest.raises(ShardError, match=r"out: .* is writing there"):
        pack_targets(targets, out)
    assert not out.exists()


def test_a_poisoned_clip_is_not_packed_and_what_was_packed_stays(
    targets: Path, calm: Path, tmp_path: Path
) -> None:
    for folder, out in ((targets, tmp_path), (calm, tmp_path / "out")):
        out.mkdir(exist_ok=True)
        for name, data in files_of(folder).items():
            (out / name).write_bytes(data)
    clip, place = next(i for i in CachedTargets(tmp_path)._places.items() if i[0].startswith("b-"))
    shard = tmp_path / "b.clips.tar"
    whole = shard.read_bytes()
    middle = place.offset + place.size // 2  # of the geometric tokens, by far the most
    shard.write_bytes(whole[:middle] + b"\xff" * 16 + whole[middle + 16 :])
    packed = PackedTargets(tmp_path / "out")
    lost = Path(packed._places[clip].shard).stem
    (tmp_path / "out" / f"{lost}.done.json").unlink()
    cure = r"delete its \.done\.json and run `spa3r targets` again, then pack again"
    with pytest.raises(
        DamageError, match=rf"b\.clips\.tar: clip {clip}: geo is not.*{cure}"
    ) as told:
        pack_targets(tmp_path, tmp_path / "out", clips_per_shard=3)
    assert "leaves no clip out" in str(told.value) and "\n" not in str(told.value)
    assert PackedTargets(tmp_path / "out").load(packed.shards[0][:1]).valid_BVN.any()
    shard.write_bytes(whole)
    pack_targets(tmp_path, tmp_path / "out", clips_per_shard=3)
    assert files_of(tmp_path / "out") == files_of(calm)


def test_plain_webdataset_streams_them(calm: Path) -> None:
    packed = PackedTargets(calm)
    urls = sorted(str(path) for path in calm.glob("*.tar"))
    stream = WebDataset(urls, shardshuffle=False)
    in_order = [clip for shard in packed.shards for clip in shard]
    for sample, clip in zip(stream, in_order, strict=True):
        meta = json.loads(sample[schema.CLIP_META_PART])
        assert meta["id"] == clip.id == sample["__key__"]
        assert (meta["frames"], meta["is_target"]) == (list(clip.frames), list(clip.is_target))
        tensors = safetensors.torch.load(sample[schema.CLIP_PART])
        batch = packed.load([clip])
        assert torch.equal(tensors["geo"], batch.geo_BVND[0])
        assert batch.sem_BVND is not None and torch.equal(tensors["sem"], batch.sem_BVND[0])


def test_a_gigabyte_a_shard_by_default(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedTargets(targets)
    assert len(pack._plan(cached, 0)) == 2  # a shard for each kind of clip
    clips = [c for c in cached.clips if c.num_views == 4]
    size = sum(x.nbytes for x in cached.read_stored(clips[0]).values())
    monkeypatch.setattr(pack, "SHARD_BYTES", 2 * size + 1)
    shards_of_4 = [u for u in pack._plan(cached, 0) if u.name.startswith("v4-")]
    assert len(shards_of_4) == -(-len(clips) // 2)


def test_tables_that_contradict_the_shards_are_refused(calm: Path, tmp_path: Path) -> None:
    for name, data in files_of(calm).items():
        (tmp_path / name).write_bytes(data)
    shards.discard(str(tmp_path / "clips.parquet"))
    with pytest.raises(ShardError, match=r"clips\.parquet: not a readable table"):
        PackedTargets(tmp_path)


def test_a_table_with_other_columns_is_refused_in_one_line(calm: Path, tmp_path: Path) -> None:
    for name, data in files_of(calm).items():
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "clips.parquet")
    with pytest.raises(ShardError, match=r"clips\.parquet: not a readable table") as told:
        PackedTargets(tmp_path)
    assert "\n" not in str(told.value)
