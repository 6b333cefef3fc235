"""`export_scene` and `spa3r export`: formats, thresholds, units, errors."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from spa3r import export_commands
from spa3r.errors import ConfigError, SceneError, Spa3RError, WeightsError
from spa3r.export.scene import COLOURS, FORMATS, export_scene, in_metres
from spa3r.export.turntable import turntable
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud, coloured, surface_points
from tests.commands import parser_of
from tests.scene_maker import box_scene, untrained
from tests.unit.export import colmap_reader

SCENE = replace(box_scene(views=2, raster_hw=(12, 16)), metres_per_unit=2.0)
UNKNOWN = replace(SCENE, metres_per_unit=float("nan"))


def ply_points(path: Path) -> np.ndarray:
    """x y z r g b confidence of every point, decoded by hand."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert b"format binary_little_endian 1.0" in header
    kinds = [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")]
    return np.frombuffer(body, np.dtype(kinds))


def test_the_ending_decides_and_the_least_sure_points_go(tmp_path: Path) -> None:
    cloud = surface_points(SCENE)
    done = export_scene(SCENE, tmp_path / "a.ply")
    points = ply_points(tmp_path / "a.ply")
    assert done.points == len(points) and done.points_before == len(cloud) == 2 * 12 * 16
    assert abs(done.points / done.points_before - 0.6) < 0.02
    least_kept = points["confidence"].min()
    assert (cloud.confidence_N < least_kept).sum() == done.points_before - done.points
    assert done.bytes == (tmp_path / "a.ply").stat().st_size
    assert done.line.startswith(f"{tmp_path}/a.ply: ply, {done.points} of 384 points")
    assert export_scene(SCENE, tmp_path / "b.ply", confidence=0, max_points=7).points == 7


def test_every_format_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = partial(turntable, frames=3, size=(64, 48))
    monkeypatch.setattr("spa3r.export.scene.turntable", short)
    small = replace(box_scene(views=1, raster_hw=(4, 6)), metres_per_unit=2.0)
    for name in FORMATS:
        path = tmp_path / (name if name.startswith("colmap") else f"scene.{name}")
        done = export_scene(small, path, format=name)
        assert done.format == name and done.bytes > 100, name
    assert not list(tmp_path.glob(".*"))


def test_other_endings_are_free_where_a_format_is_named(tmp_path: Path) -> None:
    assert export_scene(SCENE, tmp_path / "a.bin", format="ply").format == "ply"
    assert export_scene(SCENE, tmp_path / "room.v2", format="colmap").format == "colmap"


@pytest.mark.parametrize(
    ("name", "limit"), [("a.gif", 200_000), ("a.mp4", 200_000), ("a.ply", 1_000_000)]
)
def test_previews_are_thinned_out_more_than_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    asked, keep = [], PointCloud.keep

    def kept(self: PointCloud, confidence: float, max_points: int) -> PointCloud:
        asked.append(max_points)
        return keep(self, confidence, 50)

    monkeypatch.setattr(PointCloud, "keep", kept)
    monkeypatch.setattr("spa3r.export.scene.turntable", partial(turntable, frames=2, size=(32, 24)))
    export_scene(SCENE, tmp_path / name)
    assert asked == [limit]


def test_metres_scale_points_and_cameras(tmp_path: Path) -> None:
    export_scene(SCENE, tmp_path / "scene", confidence=0)
    done = export_scene(SCENE, tmp_path / "metres", confidence=0, units="metres")
    assert "lengths in metres" in done.line
    own, metric = (colmap_reader.read_binary(tmp_path / name) for name in ("scene", "metres"))
    for identity, point in own.points.items():
        np.testing.assert_allclose(metric.points[identity].xyz, 2 * point.xyz, rtol=1e-6)
    for identity, image in own.images.items():
        pose = metric.images[identity].camera_from_world_34
        np.testing.assert_allclose(pose[:, :3], image.camera_from_world_34[:, :3], atol=1e-9)
        np.testing.assert_allclose(pose[:, 3], 2 * image.camera_from_world_34[:, 3], atol=1e-6)
        np.testing.assert_allclose(
            metric.images[identity].pixels_M2, image.pixels_M2, atol=1e-3
        )  # fmt: skip


def test_a_glb_is_in_metres_where_they_are_known(tmp_path: Path) -> None:
    known = export_scene(SCENE, tmp_path / "a.glb")
    asked = export_scene(SCENE, tmp_path / "b.glb", units="scene")
    unknown = export_scene(UNKNOWN, tmp_path / "c.glb")
    assert (known.units, asked.units, unknown.units) == ("metres", "scene", "scene")
    assert (tmp_path / "b.glb").read_bytes() == (tmp_path / "c.glb").read_bytes()
    assert (tmp_path / "a.glb").read_bytes() != (tmp_path / "b.glb").read_bytes()


def test_feature_colours_are_those_of_the_point_cloud_module(tmp_path: Path) -> None:
    scene = box_scene(views=2, raster_hw=(12, 16), encoder=untrained())
    export_scene(scene, tmp_path / "a.ply", colour="semantic", confidence=0)
    expected = coloured(scene, surface_points(scene), "semantic").colours_N3
    np.testing.assert_array_equal(ply_points(tmp_path / "a.ply")["rgb"], expected)
    assert not np.array_equal(expected, surface_points(scene).colours_N3)


@pytest.mark.parametrize(
    ("scene", "name", "settings", "error", "match"),
    [
        (SCENE, "a.obj", {}, ConfigError, "unknown format 'obj'; choose one of ply, glb"),
        (SCENE, "a.ply", {"format": "mp4"}, ConfigError, r"ends in \.mp4"),
        (SCENE, "a.ply", {"format": "glb"}, ConfigError, "ending says ply, the format glb"),
        (SCENE, "a.GLB", {"format": "npz"}, ConfigError, "ending says glb, the format npz"),
        (SCENE, "a.mp4", {"format": "ply"}, ConfigError, "ending says mp4, the format ply"),
        (SCENE, "a.ply", {"format": "colmap"}, ConfigError, "a folder; leave out the ending .ply"),
        (SCENE, "a.npz", {"format": "colmap-text"}, ConfigError, "a COLMAP model is a folder"),
        (SCENE, "a.ply", {"colour": "depth"}, ConfigError, "choose one of rgb, geometric"),
        (SCENE, "a.ply", {"units": "feet"}, ConfigError, "choose one of scene, metres"),
        (SCENE, "a.ply", {"confidence": 101}, ConfigError, r"0\.\.100"),
        (SCENE, "a.ply", {"max_points": 0}, ConfigError, "at least 1"),
        (SCENE, "a.npz", {"units": "metres"}, ConfigError, "leave units out"),
        (SCENE, "a.ply", {"colour": "geometric"}, WeightsError, "no encoder"),
        (UNKNOWN, "a.ply", {"units": "metres"}, SceneError, "metric scale is unknown"),
        (replace(SCENE, surface=None), "a.ply", {}, SceneError, "--points"),
    ],
)
def test_bad_requests_say_what_to_do_and_write_nothing(
    tmp_path: Path, scene: SceneLatent, name: str, settings: dict, error: type, match: str
) -> None:
    with pytest.raises(error, match=match):
        export_scene(scene, tmp_path / name, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_surface_without_depth_is_refused(tmp_path: Path) -> None:
    assert SCENE.surface is not None
    blind = replace(SCENE.surface, depth_Chw=torch.zeros_like(SCENE.surface.depth_Chw))
    with pytest.raises(SceneError, match="no surface point"):
        export_scene(replace(SCENE, surface=blind), tmp_path / "a.ply")


def test_in_metres_keeps_rotations_and_forgets_what_is_in_the_old_unit() -> None:
    cloud, metric = in_metres(surface_points(SCENE), SCENE)
    assert metric.metres_per_unit == 1.0 and metric.surface is None and metric.encoder is None
    np.testing.assert_array_equal(cloud.points_N3, 2 * surface_points(SCENE).points_N3)
    torch.testing.assert_close(
        metric.camera_from_world_C44[:, :3, 3], 2 * SCENE.camera_from_world_C44[:, :3, 3]
    )
    assert (SCENE.camera_from_world_C44[1, :3, 3] != metric.camera_from_world_C44[1, :3, 3]).any()


# --- the command ----------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    return parser_of(export_commands.register).parse_args(["export", *words])


def test_the_command_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    SCENE.save(tmp_path / "kitchen.safetensors")
    arguments = parsed(
        str(tmp_path / "kitchen.safetensors"), "-o", str(tmp_path / "model"), "--format",
        "colmap-text", "--max-points", "50", "--units", "metres", "--confidence", "10",
    )  # fmt: skip
    arguments.run(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert line == (
        f"{tmp_path}/model: colmap-text, 50 of 384 points, {size} bytes, lengths in metres"
    )
    assert len(colmap_reader.read_text(tmp_path / "model").points) == 50


def test_the_command_asks_for_an_encoder_where_colours_need_one(tmp_path: Path) -> None:
    SCENE.save(tmp_path / "k.safetensors")
    scene, out = str(tmp_path / "k.safetensors"), str(tmp_path / "k.ply")
    arguments = parsed(scene, "-o", out, "--colour", "semantic")
    with pytest.raises(ConfigError, match="give --encoder"):
        arguments.run(arguments)
    arguments = parsed(scene, "-o", out, "--colour", "semantic", "--encoder", str(tmp_path))
    with pytest.raises(Spa3RError):
        arguments.run(arguments)
    assert not (tmp_path / "k.ply").exists()


def test_an_encoder_without_feature_colours_is_refused(tmp_path: Path) -> None:
    SCENE.save(tmp_path / "k.safetensors")
    scene, out = str(tmp_path / "k.safetensors"), str(tmp_path / "k.ply")
    arguments = parsed(scene, "-o", out, "--encoder", "no such encoder")
    with pytest.raises(ConfigError, match="--encoder is for feature colours"):
        arguments.run(arguments)
    assert not (tmp_path / "k.ply").exists()


def test_the_help_says_that_photos_must_be_upright() -> None:
    assert "EXIF" in export_commands.HELP and "mogrify -auto-orient" in export_commands.HELP


@pytest.mark.parametrize(("out", "format"), [
    ("/proc/x.ply", None), ("/proc/x", None), ("taken", "ply"), ("file", None),
    ("file/a.npz", None),
])  # fmt: skip
def test_the_target_is_tried_before_anything_is_loaded(
    out: str, format: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("file").write_bytes(b"")
    monkeypatch.setattr("spa3r.export.scene.surface_points", lambda _: 1 / 0)
    chosen = [] if format is None else ["--format", format]
    arguments = parsed("no such scene", "-o", out, *chosen)
    for ask in (lambda: arguments.run(arguments), lambda: export_scene(SCENE, out, format=format)):
        with pytest.raises(ConfigError, match=f"{out}: cannot be written") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spa3r.export.scene.write_colmap", full)
    with pytest.raises(ConfigError, match=r"model: cannot be written \(No space left on device\);"):
        export_scene(SCENE, tmp_path / "model")


def test_the_help_offers_what_the_library_knows() -> None:
    parser = argparse.ArgumentParser()
    export_commands.register(lambda *names, text: parser)
    offered = {action.dest: action.choices for action in parser._actions if action.choices}
    assert offered == {"format": FORMATS, "colour": COLOURS, "units": ("scene", "metres")}
