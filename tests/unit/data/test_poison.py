"""A poisoned target is named, and by policy stops the run or is left out of its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from preprocessing.pack import pack_targets
from preprocessing.shards import write_tar
from preprocessing.targets import write_targets
from spa3r import schema
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.batch import ClipBatch
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import Clip
from spa3r.data.online import HybridTargets, OnlineTargets
from spa3r.data.packed import PackedTargets
from spa3r.data.parts import Poisoned
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.errors import DamageError, ShardError, TeacherError
from spa3r.teachers.build import build_geometric
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.frame_teachers import ColourWaves
from tests.frames_maker import make_frames
from tests.killing import files_of
from tests.small_vggt import small_vggt

CLIPS = ClipSpec(view_counts=(4,), gap=(1, 1), clips_per_scene=2)
SPEC = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)
SOURCES = ("cached", "packed", "hybrid")
Source = CachedTargets | PackedTargets | HybridTargets


@dataclass
class Files:
    """Targets in every arrangement; scene b is what gets damaged."""

    folder: Path

    def open(self, source: str, poisoned: Poisoned) -> Source:
        if source == "cached":
            return CachedTargets(self.folder / "targets", poisoned=poisoned)
        if source == "packed":
            return PackedTargets(self.folder / "packed", poisoned=poisoned)
        targets = CachedTargets(self.folder / "targets")
        table = FrameTable(self.folder / "frames")
        return HybridTargets(table, targets, build_geometric(SPEC), poisoned=poisoned)

    def shard(self, source: str) -> Path:
        """The file that is damaged, and holds (of hybrid: the frames of) clips of scene b."""
        name = {"cached": "targets/b.clips.tar", "hybrid": "targets/b.frames.tar"}.get(source)
        if name is None:
            return max((self.folder / "packed").glob("*.tar"))
        return self.folder / name


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("calm")
    table = FrameTable(make_frames(folder / "frames", {"a": 6, "b": 6}))
    write_targets(table, folder / "targets", clips=CLIPS, teacher=SPEC, split="train")
    pack_targets(folder / "targets", folder / "packed")
    return files_of(folder)


@pytest.fixture
def files(calm: dict[str, bytes], tmp_path: Path) -> Files:
    for name, data in calm.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return Files(tmp_path)


def clips_of(source: Source) -> tuple[Clip, Clip]:
    """One of each scene."""
    b, a = (next(c for c in reversed(source.clips) if c.scene == s) for s in "ba")
    if isinstance(source, PackedTargets):  # of which the last in the shard is cut off
        order = source.shards[-1]
        b = order[-1]
        a = next(c for c in order if c != b)
    return a, b


# --- the kinds ------------------------------------------------------------------------------------


def change(change_tensors: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Rewrites every payload of a shard with other tensors, in place: sizes stay the tables'."""

    def damage(path: Path) -> None:
        samples = []
        for sample in iter_samples(str(path)):
            parts = {k: v for k, v in sample.items() if not k.startswith("__")}
            for part in (schema.CLIP_PART, schema.SEM_PART):
                if part in parts:
                    tensors = safetensors.torch.load(parts[part])
                    change_tensors(tensors)
                    parts[part] = safetensors.torch.save(tensors)
            samples.append((sample["__key__"], parts))
        write_tar(str(path), samples)

    return damage


def _spoil(value: float, *names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = next(n for n in names if n in tensors)
        tensors[name].view(-1)[5] = value

    return spoil


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    name = max(tensors, key=lambda n: tensors[n].numel())
    tensors[name] = tensors[name].mT.contiguous()


def _retype(tensors: dict[str, torch.Tensor]) -> None:
    name = max(tensors, key=lambda n: tensors[n].numel())
    tensors[name] = tensors[name].view(torch.bfloat16)


def _lose(tensors: dict[str, torch.Tensor]) -> None:
    tensors["other"] = tensors.pop(max(tensors, key=lambda n: tensors[n].numel()))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -12 * 1024])


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (change(_spoil(float("nan"), "geo", "sem")), "not finite"),
    "inf": (change(_spoil(float("inf"), "geo", "sem")), "not finite"),
    "camera": (change(_spoil(float("nan"), "camera_from_world", "sem")), "not finite"),
    "shape": (change(_reshape), "not "),
    "dtype": (change(_retype), "bfloat16"),
    "name": (change(_lose), "other|damaged|None"),
    "cut": (_truncate, "do not belong together"),
    "absent": (Path.unlink, "absent"),
    "header": (lambda path: path.write_bytes(b"\xff" * path.stat().st_size), "damaged"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_poison_stops_or_is_dropped(files: Files, source: str, kind: str) -> None:
    a, b = clips_of(files.open(source, "stop"))
    whole = files.open(source, "stop").load([a, b])
    damage, why = KINDS[kind]
    shard = files.shard(source)
    damage(shard)
    with pytest.raises(DamageError, match=why) as stopped:
        files.open(source, "stop").load([b])
    line = str(stopped.value)
    assert shard.name in line and b.id in line and "\n" not in line
    batch = files.open(source, "drop").load([a, b])
    if source == "packed" and kind != "cut":  # all of the shard is damaged
        assert len(batch.dropped) == 2
        assert not batch.valid_BVN.any()
        return
    assert batch.dropped == (line,)
    check_blank(batch, 1)
    for name in ("geo_BVND", "sem_BVND", "depth_BVN", "valid_BVN", "K_BV33", "context_BCND"):
        x, y = getattr(batch, name), getattr(whole, name)
        assert x.shape == y.shape and x.dtype == y.dtype, name
        assert torch.equal(x[0], y[0]), name


@pytest.mark.parametrize(
    ("source", "kind", "cure"),
    [
        ("cached", "nan", r"delete its \.done\.json and run `spa3r targets` again"),
        ("packed", "nan", r"delete {}\.done\.json beside it and run `spa3r pack` again"),
        ("packed", "header", r"delete {}\.done\.json beside it and run `spa3r pack` again"),
    ],
)
def test_the_cure_that_is_named_cures(
    files: Files, calm: dict[str, bytes], source: str, kind: str, cure: str
) -> None:
    shard = files.shard(source)
    KINDS[kind][0](shard)
    _, b = clips_of(files.open(source, "stop"))
    with pytest.raises(DamageError, match=f"{shard.name}: .*{cure.format(shard.stem)}$"):
        files.open(source, "stop").load([b])
    if source == "cached":
        (files.folder / "targets" / "b.done.json").unlink()
        table = FrameTable(files.folder / "frames")
        out = files.folder / "targets"
        write_targets(table, out, clips=CLIPS, teacher=SPEC, split="train")
    else:
        shard.with_name(f"{shard.stem}.done.json").unlink()
        pack_targets(files.folder / "targets", files.folder / "packed")
    assert files_of(files.folder) == calm


def check_blank(batch: ClipBatch, row: int) -> None:
    """A dropped clip: zeros, nowhere valid, and cameras that a model can take."""
    for x in (batch.geo_BVND, batch.context_BCND, batch.sem_BVND, batch.depth_BVN):
        assert x is not None and not x[row].any()
    assert not batch.valid_BVN[row].any()
    assert torch.equal(batch.camera_from_world_BV44[row], torch.eye(4).expand(4, 4, 4))
    height, width = (14 * n for n in batch.grid_hw)
    K = batch.K_BV33[row, 0]
    assert K[0, 0] > 0 and K[1, 1] > 0 and torch.equal(K[:2, 2], torch.tensor([width, height]) / 2)


@pytest.mark.parametrize("source", SOURCES)
def test_a_sample_that_is_missing_is_not_the_next_one(files: Files, source: str) -> None:
    """In a shard that lost its first sample, the second lies where that was, just as large."""
    shard = files.shard(source)
    samples = [
        (sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")})
        for sample in iter_samples(str(shard))
    ]
    write_tar(str(shard), samples[1:])
    opened = files.open(source, "stop")
    if isinstance(opened, PackedTargets):
        lost = opened.shards[-1][0]
    else:
        of_scene = [clip for clip in opened.clips if clip.scene == "b"]
        lost = min(of_scene, key=lambda clip: clip.frames)
        if source == "cached":
            lost = next(clip for clip in of_scene if clip.id == samples[0][0])
    with pytest.raises(DamageError, match=rf"{shard.name}: .*lies in its place"):
        opened.load([lost])
    assert files.open(source, "drop").load([lost]).dropped


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_of_poison_keeps_its_shape(files: Files, source: str) -> None:
    clips = clips_of(files.open(source, "stop"))
    whole = files.open(source, "stop").load(clips)
    files.shard(source).unlink()
    if source != "packed":  # the other clip's too
        shard = files.shard(source)
        shard.with_name(shard.name.replace("b.", "a.")).unlink()
    batch = files.open(source, "drop").load(clips)
    assert len(batch.dropped) == 2
    for name in ("geo_BVND", "sem_BVND", "depth_BVN", "K_BV33"):
        assert getattr(batch, name).shape == getattr(whole, name).shape
    check_blank(batch, 0)


def test_teachers_that_fail_on_a_clip_are_poison_too(files: Files) -> None:
    clips = CachedTargets(files.folder / "targets").clips
    a, b = clips[0], clips[-1]
    spec = TeacherSpec(width=64, semantic_width=8)

    class Exploding(VggtTeacher):
        def __call__(self, views: Any, *, heads: Literal["all", "targets"] = "all") -> Any:
            targets = super().__call__(views, heads=heads)
            targets.tokens_BVND.mul_(1e9)  # finite, but not in float16
            return targets

    def online(vggt: VggtTeacher, poisoned: Poisoned) -> OnlineTargets:
        table = FrameTable(files.folder / "frames")
        return OnlineTargets(table, clips, spec, vggt, ColourWaves(8), poisoned=poisoned)

    exploding = Exploding(small_vggt(), uri="small")
    with pytest.raises(TeacherError, match=rf"clip {a.id}: .*not finite in the stored dtype"):
        online(exploding, "stop").load([a, b])
    batch = online(exploding, "drop").load([a, b])
    assert [a.id in batch.dropped[0], b.id in batch.dropped[1]] == [True, True]
    check_blank(batch, 0)
    (files.folder / "frames" / "b.tar").unlink()
    calm = online(VggtTeacher(small_vggt(), uri="small"), "drop").load([a, b])
    assert len(calm.dropped) == 1 and "b.tar" in calm.dropped[0] and b.id in calm.dropped[0]
    assert calm.valid_BVN[0].any()
    check_blank(calm, 1)


# --- what is not poison ---------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_a_storage_that_fails_is_never_dropped(
    files: Files, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = files.open(source, "drop")
    clips = clips_of(opened)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in ("os.pread", "os.preadv"):
        monkeypatch.setattr(name, fail)
    with pytest.raises(ShardError, match=r"cannot be read \(Input/output error\)") as error:
        opened.load(clips)
    assert not isinstance(error.value, DamageError)


@pytest.mark.parametrize("source", SOURCES)
def test_a_folder_that_is_gone_is_never_dropped(files: Files, source: str) -> None:
    opened = files.open(source, "drop")
    clips = clips_of(opened)
    folder = files.shard(source).parent
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(ShardError, match="gone while it was used") as error:
        opened.load(clips)
    assert not isinstance(error.value, DamageError)


def test_a_table_that_lies_reads_no_more_than_a_clip(files: Files) -> None:
    path = files.folder / "targets" / "clips.parquet"
    table = pq.read_table(path)
    rows: Sequence[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row["size"] = 1 << 40
    pq.write_table(pa.Table.from_pylist(list(rows), table.schema), path)
    cached = CachedTargets(files.folder / "targets")
    with pytest.raises(DamageError, match=r"damaged|do not belong together"):
        cached.load(cached.clips[:1])
