"""What a recipe trains on: which places it needs, and which of them fit it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from preprocessing.pack import pack_targets
from preprocessing.targets import write_targets
from spa3r.config import Recipe
from spa3r.data.batch import Sequential, Staged
from spa3r.data.order import build_order
from spa3r.data.shards import FrameTable
from spa3r.errors import ConfigError, ShardError, TeacherError
from spa3r.plain import override
from spa3r.recipes import catalogue
from spa3r.train.sources import DataPlaces, open_data
from tests.frames_maker import make_frames


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    debug = catalogue.get("debug")
    return replace(debug, clips=replace(debug.clips, view_counts=(4,), clips_per_scene=2))


@pytest.fixture
def targets(tmp_path: Path, recipe: Recipe) -> Path:
    table = FrameTable(make_frames(tmp_path / "frames", {"a": 8}, size=(112, 84)))
    out = tmp_path / "targets"
    write_targets(table, out, clips=recipe.clips, teacher=recipe.teacher, split="train")
    return out


def test_targets_of_the_recipe_s_teachers_fit(targets: Path, recipe: Recipe) -> None:
    data = open_data(str(targets), recipe)
    assert set(data.references) == {"geometric", "semantic"}
    assert data.stats is not None and "sem_mean" in data.stats


def test_targets_from_before_a_setting_still_fit(targets: Path, recipe: Recipe) -> None:
    manifest = json.loads((targets / "manifest.json").read_text())
    for name in ("linguistic", "linguistic_uri", "linguistic_width", "layer", "metric_scale"):
        del manifest["teacher"][name]
    (targets / "manifest.json").write_text(json.dumps(manifest))
    open_data(str(targets), recipe)
    spoken = replace(recipe, teacher=replace(recipe.teacher, linguistic="clip"))
    with pytest.raises(ConfigError, match=r"another teacher \(linguistic differ\).*spa3r targets"):
        open_data(str(targets), spoken)


def test_every_setting_that_differs_is_named(targets: Path, recipe: Recipe) -> None:
    other = replace(recipe, teacher=replace(recipe.teacher, seed=3, dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"\(dtype, seed differ\)"):
        open_data(str(targets), other)


# --- the four sources -----------------------------------------------------------------------------


def of(recipe: Recipe, source: str) -> Recipe:
    return override(recipe, {"data.source": source})


@pytest.fixture
def places(targets: Path) -> DataPlaces:
    pack_targets(targets, targets.with_name("packed"))
    frames, packed = (str(targets.with_name(name)) for name in ("frames", "packed"))
    return DataPlaces(targets=str(targets), held_out=str(targets), frames=frames, packed=packed)


def test_every_source_gives_the_targets_that_the_loss_asks_for(
    places: DataPlaces, recipe: Recipe
) -> None:
    loaded = {}
    for source in ("cached", "packed", "online", "hybrid"):
        data = open_data(places, of(recipe, source))
        assert isinstance(data.source, Staged) == (source in ("online", "hybrid"))
        assert isinstance(data.source, Sequential) == bool(data.order_hash) == (source == "packed")
        assert data.stats is not None and set(data.references) == {"geometric", "semantic"}
        clips = build_order(data.source, recipe).batch(0)
        assert data.source.grid_hw(clips[0]) == (3, 4)
        loaded[source] = {c.id: data.source.load([c]) for c in sorted(clips, key=lambda c: c.id)}
        for batch in loaded[source].values():
            assert not batch.depth_BVN[~batch.is_target_BV].any()
        assert data.held_out is not None
        assert data.held_out.load(clips[:1]).depth_BVN[0, 0].any()  # validation sees all views
    first = loaded.pop("cached")
    for found in loaded.values():
        for clip, batch in found.items():
            assert torch.equal(batch.geo_BVND, first[clip].geo_BVND)
    everything = open_data(places, override(recipe, {"loss.views": "all"}))
    assert everything.source.load(clips[:1]).depth_BVN[0, 0].any()


@pytest.mark.parametrize(
    ("source", "lacking"), [("packed", "packed"), ("online", "frames"), ("hybrid", "frames")]
)
def test_a_place_that_lacks_is_named(
    targets: Path, recipe: Recipe, source: str, lacking: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{source}', which needs DataPlaces.{lacking}"):
        open_data(str(targets), of(recipe, source))


def test_places_that_do_not_belong_together_are_refused(
    places: DataPlaces, recipe: Recipe, tmp_path: Path
) -> None:
    manifest_of = {name: Path(getattr(places, name)) / "manifest.json"
                   for name in ("targets", "packed", "frames")}  # fmt: skip

    def change(name: str, **values: str | int) -> None:
        facts = json.loads(manifest_of[name].read_text())
        manifest_of[name].write_text(json.dumps(facts | values))

    change("packed", target_hash="other")
    with pytest.raises(ConfigError, match=r"packed of other targets than .*spa3r pack"):
        open_data(places, of(recipe, "packed"))
    change("frames", data_hash="other")
    with pytest.raises(ConfigError, match=r"other frames than those of .*spa3r targets"):
        open_data(places, of(recipe, "online"))
    change("frames", data_hash="box")
    places = replace(places, held_out="")
    change("targets", stored="statistics", statistics_clips=256)
    with pytest.raises(ConfigError, match=r"no tokens of frames; .*spa3r targets.*hybrid"):
        open_data(places, of(recipe, "hybrid"))
    with pytest.raises(ShardError, match="holds the statistics of its clips"):
        open_data(DataPlaces(targets=places.targets), recipe)
    open_data(DataPlaces(targets=places.targets, frames=places.frames), of(recipe, "online"))


@pytest.mark.parametrize(("source", "stored"), [("online", "statistics"), ("hybrid", "frames")])
def test_statistics_of_another_draw_are_refused(
    tmp_path: Path, recipe: Recipe, source: str, stored: Literal["statistics", "frames"]
) -> None:
    frames = make_frames(tmp_path / "frames", {"a": 8}, size=(112, 84))
    out = tmp_path / "targets"
    write_targets(
        FrameTable(frames), out, clips=recipe.clips, teacher=recipe.teacher, split="train",
        stored=stored, statistics_clips=1,
    )  # fmt: skip
    places = DataPlaces(targets=str(out), frames=str(frames))
    asked = override(recipe, {"data.source": source, "data.statistics_clips": 2})
    with pytest.raises(ConfigError, match=r"of 1 drawn clips, data.statistics_clips is 2; run"):
        open_data(places, asked)
    open_data(places, override(asked, {"data.statistics_clips": 1}))


def test_other_weights_than_those_of_the_targets_are_refused_when_they_are_loaded(
    places: DataPlaces, recipe: Recipe
) -> None:
    path = Path(places.targets) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["references"]["geometric"]["hash"] = "of other weights"
    path.write_text(json.dumps(manifest))
    for source in ("online", "hybrid"):
        data = open_data(places, of(recipe, source))  # who only asks what a run is, loads none
        with pytest.raises(TeacherError, match=r"geometric teacher has hash of other weights"):
            data.source.load(data.source.clips[:1])


@pytest.mark.parametrize("source", ["cached", "packed", "online", "hybrid"])
def test_scenes_of_different_sizes_train_from_one_folder(
    recipe: Recipe, tmp_path: Path, source: str
) -> None:
    """Portrait and landscape: every batch has one size."""
    tall = make_frames(tmp_path / "tall", {"tall": 6}, size=(84, 112))
    wide = make_frames(tmp_path / "both", {"wide": 6}, size=(112, 84))
    (wide / "tall.tar").write_bytes((tall / "tall.tar").read_bytes())
    tables = [pq.read_table(folder / "manifest.parquet") for folder in (tall, wide)]
    pq.write_table(pa.concat_tables(tables), wide / "manifest.parquet")
    facts = [json.loads((folder / "manifest.json").read_text()) for folder in (tall, wide)]
    shards = facts[0]["shards"] | facts[1]["shards"]
    (wide / "manifest.json").write_text(json.dumps(facts[1] | {"shards": shards}))
    out = tmp_path / "targets"
    table = FrameTable(tmp_path / "both")
    write_targets(table, out, clips=recipe.clips, teacher=recipe.teacher, split="train")
    pack_targets(out, tmp_path / "packed")
    places = DataPlaces(
        targets=str(out), frames=str(tmp_path / "both"), packed=str(tmp_path / "packed")
    )
    data = open_data(places, of(recipe, source))
    order = build_order(data.source, recipe)
    grids = [data.source.load(order.batch(index)).grid_hw for index in range(4)]
    assert set(grids) == {(4, 3), (3, 4)}
