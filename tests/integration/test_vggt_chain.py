"""The whole pipeline with VGGT and DINOv3 as teachers: small ones with random weights, in folders.

From generated scans to an encoder out of the registry that reads photos without depth, and what it
says when its teacher is not where it was.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from preprocessing.dataset import ingest_dataset
from preprocessing.rooms.spec import RoomSpec
from preprocessing.rooms.writer import write_rooms
from preprocessing.targets import TargetManifest, write_targets
from preprocessing.views import read_views
from spa3r.config import ClipSpec, IngestSpec, Recipe, TeacherSpec
from spa3r.data.cached import CachedTargets
from spa3r.data.shards import FrameTable
from spa3r.errors import TeacherError
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field import evaluate_field
from spa3r.hub import TEACHER_VARIABLE, Spa3REncoder
from spa3r.latent import SceneLatent
from spa3r.recipes import catalogue
from spa3r.teachers.vggt import save_vggt
from spa3r.train import tracking
from spa3r.train.pretrain import in_this_process, pretrain
from spa3r.train.registry import register_encoder
from tests.scan_arrays import scan_arrays
from tests.small_vggt import small_vggt

STEPS = 4
CANDIDATE = "models:/spa3r-encoder@candidate"


@dataclass(frozen=True)
class Chain:
    """What the stages left in one folder."""

    folder: Path
    recipe: Recipe
    table: FrameTable

    @property
    def teacher_folder(self) -> Path:
        return Path(self.recipe.teacher.geometric_uri)

    def write(self, split: str, out: Path, teacher: TeacherSpec) -> TargetManifest:
        clips = self.recipe.clips if split == "train" else self.recipe.eval_clips
        return write_targets(self.table, out, clips=clips, teacher=teacher, split=split)

    def encode_photos(self) -> SceneLatent:
        encoder = Spa3REncoder.from_pretrained(CANDIDATE)
        card = encoder.card
        photos = self.folder / "photos"
        views = read_views(str(photos), width=card.image_width, multiple=card.image_multiple)
        assert list(views.arrays) == ["images"]
        return encoder.encode(**views.arrays)


def save_teachers(folder: Path) -> TeacherSpec:
    save_vggt(folder / "vggt", small_vggt())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dinov3 = DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_attention_heads=2))
    dinov3.save_pretrained(folder / "dinov3")
    return TeacherSpec(
        geometric_uri=str(folder / "vggt"),
        semantic_uri=str(folder / "dinov3"),
        width=64,
        semantic_width=32,
    )


def small_recipe(teacher: TeacherSpec) -> Recipe:
    base = catalogue.get("debug")
    return replace(
        base,
        name="photographer",
        ingest=IngestSpec(width=84, multiple=14),
        clips=ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True),
        eval_clips=ClipSpec(view_counts=(4,), gap=(1, 2), clips_per_scene=2, seed=1),
        teacher=teacher,
        model=replace(base.model, geo_width=64, sem_width=32, patch_size=14),
        train=replace(base.train, steps=STEPS, checkpoint_every=STEPS),
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Rooms, shards, targets, and an encoder registered as candidate."""
    folder = tmp_path_factory.mktemp("chain")
    recipe = small_recipe(save_teachers(folder))
    rooms = RoomSpec(width=112, height=84, frames=12)
    write_rooms(folder / "rooms", range(4), rooms, val_scenes=(2, 3))
    ingest_dataset(str(folder / "rooms"), "rooms", recipe.ingest, str(folder / "shards"))
    chain = Chain(folder, recipe, FrameTable(str(folder / "shards")))
    written = {
        split: chain.write(split, folder / split, recipe.teacher) for split in ("train", "val")
    }
    assert [manifest.clips for manifest in written.values()] == [8, 4]
    hashes = {k: getattr(written["train"], k) for k in ("data_hash", "target_hash")}
    with tracking.track(f"sqlite:///{folder}/mlflow.db", recipe, hashes) as tracker:
        done = pretrain(
            recipe, written["train"].folder, folder / "run",
            launch=in_this_process(), on_line=tracker.log_line,
        )  # fmt: skip
        assert done.metrics["step"] == STEPS
        register_encoder(tracker, done.encoder)
    (folder / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=4)["images"]):
        cv2.imwrite(str(folder / "photos" / f"{i}.jpg"), image)
    return chain


@pytest.fixture(autouse=True)
def registry(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TEACHER_VARIABLE, raising=False)
    tracking.connect(f"sqlite:///{chain.folder}/mlflow.db")


def test_the_field_is_measured_against_the_teachers_cameras(chain: Chain) -> None:
    source = CachedTargets(chain.folder / "val")
    report = evaluate_field(Spa3REncoder.from_pretrained(CANDIDATE).model, source)
    assert {row.scene for row in report.scenes} == set(chain.table.scenes("val"))
    for row in report.scenes:
        assert {"model", *CONTROLS} <= set(row.scores)
        assert {"geo/r2", "sem/r2"} <= set(row.scores["model"])


def test_photos_become_a_scene_through_the_recorded_teacher(chain: Chain) -> None:
    scene = chain.encode_photos()
    model = chain.recipe.model
    assert scene.latents_LD.shape == (model.num_latents, model.width)
    assert scene.camera_from_world_C44.shape == (4, 4, 4)
    assert scene.metres_per_unit != scene.metres_per_unit, "photos alone have no scale"
    recorded = CachedTargets(chain.folder / "train").references["geometric"]
    assert scene.provenance["teacher"] == recorded
    assert (recorded["kind"], recorded["uri"]) == ("vggt", str(chain.teacher_folder))


@pytest.mark.parametrize("accident", ["moved away", "replaced"])
def test_a_lost_teacher_is_named_and_the_variable_cures_it(
    chain: Chain, accident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chain.encode_photos()
    kept = str(chain.folder / "kept")
    shutil.move(chain.teacher_folder, kept)
    try:
        if accident == "replaced":
            save_vggt(chain.teacher_folder, small_vggt(seed=1))
        with pytest.raises(TeacherError) as caught:
            chain.encode_photos()
        places = ("teacher=None", f"{TEACHER_VARIABLE}=None",
                  f"recorded place {str(chain.teacher_folder)!r}")  # fmt: skip
        for place in places:
            assert place in str(caught.value)
        assert ("is not the teacher" in str(caught.value)) == (accident == "replaced")
        assert "\n" not in str(caught.value)
        monkeypatch.setenv(TEACHER_VARIABLE, kept)
        assert torch.equal(chain.encode_photos().latents_LD, before.latents_LD)
    finally:
        shutil.rmtree(chain.teacher_folder, ignore_errors=True)
        shutil.move(kept, chain.teacher_folder)


def test_weights_that_moved_do_not_redo_targets_and_other_weights_do(
    chain: Chain, tmp_path: Path
) -> None:
    out = tmp_path / "train"
    for name in ("train", "vggt", "dinov3"):
        shutil.copytree(chain.folder / name, tmp_path / name)
    before = CachedTargets(out).target_hash
    moved = replace(
        chain.recipe.teacher,
        geometric_uri=str(tmp_path / "vggt"),
        semantic_uri=str(tmp_path / "dinov3"),
    )
    again = chain.write("train", out, moved)
    assert (again.reused, again.target_hash) == (again.scenes, before)
    references = CachedTargets(out).references
    assert references["geometric"]["uri"] == moved.geometric_uri
    assert references["semantic"]["uri"] == moved.semantic_uri
    save_vggt(tmp_path / "vggt", small_vggt(seed=1))
    other = chain.write("train", out, moved)
    assert other.reused == 0 and other.target_hash != before
