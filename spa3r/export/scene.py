"""One call from a scene to a file of any kind: what `spa3r export` does.

Legend: C context views.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from spa3r import storage
from spa3r.camera import known_scale
from spa3r.errors import ConfigError, SceneError
from spa3r.export.colmap import write_colmap
from spa3r.export.glb import write_glb
from spa3r.export.npz import write_npz
from spa3r.export.ply import write_ply
from spa3r.export.turntable import turntable
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud, coloured, surface_points
from spa3r.schema import KIND_NAMES

FORMATS: Final = ("ply", "glb", "colmap", "colmap-text", "npz", "gif", "mp4")
"""colmap and colmap-text are folders, the others files that end in their name."""
COLOURS: Final = ("rgb", *KIND_NAMES.values())
UNITS: Final = ("scene", "metres")
CONFIDENCE: Final = 40.0
"""Per cent of the points to drop, the least sure first: a teacher's depth smears over edges and
into the sky, and says so. Depth Anything 3's GLB files leave out as many."""
MAX_POINTS: Final = {"colmap": 100_000, "colmap-text": 100_000, "gif": 200_000, "mp4": 200_000}
_MAX_POINTS: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    path: str
    format: str
    points: int
    points_before: int  # of the surface, before the threshold and the thinning
    bytes: int
    units: str

    @property
    def line(self) -> str:
        """One line for people."""
        unit = "metres" if self.units == "metres" else "the scene's unit"
        return (
            f"{self.path}: {self.format}, {self.points} of {self.points_before} points,"
            f" {self.bytes} bytes, lengths in {unit}"
        )


def export_scene(
    scene: SceneLatent,
    path: str | Path,
    *,
    format: str | None = None,
    colour: str = "rgb",
    confidence: float = CONFIDENCE,
    max_points: int | None = None,
    units: Literal["scene", "metres"] | None = None,
) -> Exported:
    """Writes the scene's surface points and cameras, atomically.

    Args:
        path: file, folder (COLMAP) or, but for COLMAP, URL.
        format: one of FORMATS; None: by the path's ending, without one COLMAP's binary files.
        colour: "rgb" of the images, or a kind of the field's features, which needs an encoder
            attached to the scene.
        confidence: per cent of the points to drop, the least sure first (CONFIDENCE says why 40).
        max_points: None: 100 000 in a COLMAP model, 200 000 in a preview, else a million.
        units: of points and cameras. None: the scene's, but metres in a GLB where the scale is
            known, since glTF takes every length for metres.

    Raises:
        ConfigError: an unknown format, colour or unit, a number out of range, a library that is not
            installed, a folder that holds something else, or a place that cannot be written.
        SceneError: the scene has no surface, no point is left, or its scale is unknown but asked.
        WeightsError: feature colours without an encoder.
    """
    chosen = check_target(path, format)
    if colour not in COLOURS:
        raise ConfigError(f"unknown colour {colour!r}; choose one of {', '.join(COLOURS)}")
    if units not in (None, *UNITS):
        raise ConfigError(f"unknown units {units!r}; choose one of {', '.join(UNITS)}")
    if chosen == "npz" and units == "metres":
        raise ConfigError(
            "an NPZ file keeps the scene's unit, with metres_per_unit beside it: leave units out"
        )
    if units is None:
        units = "metres" if chosen == "glb" and scene.metres_per_unit > 0 else "scene"
    surface = surface_points(scene)
    if max_points is None:
        max_points = MAX_POINTS.get(chosen, _MAX_POINTS)
    cloud = surface.keep(confidence, max_points)
    if len(cloud) == 0:
        raise SceneError(
            "no surface point is left to export: the teacher knew no depth; encode views with depth"
        )
    if colour != "rgb":
        cloud = coloured(scene, cloud, colour)
    if units == "metres":
        cloud, scene = in_metres(cloud, scene)
    with storage.named_write_errors(path):
        _write(chosen, cloud, scene, path)
    return Exported(
        path=str(path), format=chosen, points=len(cloud), points_before=len(surface),
        bytes=_bytes(path), units=units,
    )  # fmt: skip


def in_metres(cloud: PointCloud, scene: SceneLatent) -> tuple[PointCloud, SceneLatent]:
    """Both with lengths in metres; the scene without its surface and encoder, whose unit it was.

    Raises:
        SceneError: the scale is unknown.
    """
    scale = known_scale(scene.metres_per_unit)
    pose_C44 = scene.camera_from_world_C44.clone()
    pose_C44[:, :3, 3] *= scale
    metric = replace(
        scene, camera_from_world_C44=pose_C44, metres_per_unit=1.0, surface=None, encoder=None
    )
    return cloud.scaled(scale), metric


def check_target(path: str | Path, format: str | None = None) -> str:
    """The format that `export_scene` would write, asked before anything is loaded or computed.

    Raises:
        ConfigError: unknown, not that of the path's ending, or a place that cannot be written.
    """
    chosen = _format(path, format)
    storage.check_writable(path, folder=chosen.startswith("colmap"))
    return chosen


def _format(path: str | Path, format: str | None) -> str:
    suffix = Path(str(path)).suffix.lower().removeprefix(".")
    chosen = (suffix or "colmap") if format is None else format
    if chosen not in FORMATS:
        raise ConfigError(f"{path}: unknown format {chosen!r}; choose one of {', '.join(FORMATS)}")
    if chosen in ("gif", "mp4") and suffix != chosen:
        raise ConfigError(f"{path}: a {chosen} preview is a file that ends in .{chosen}")
    if chosen.startswith("colmap") and suffix in FORMATS:
        raise ConfigError(f"{path}: a COLMAP model is a folder; leave out the ending .{suffix}")
    if suffix in FORMATS and suffix != chosen:
        raise ConfigError(
            f"{path}: the ending says {suffix}, the format {chosen}; name one of them"
        )
    return chosen


def _write(chosen: str, cloud: PointCloud, scene: SceneLatent, path: str | Path) -> None:
    if chosen == "ply":
        write_ply(cloud, path)
    elif chosen == "glb":
        write_glb(cloud, scene, path)
    elif chosen == "npz":
        write_npz(cloud, scene, path)
    elif chosen in ("gif", "mp4"):
        turntable(cloud, scene, path)
    else:
        write_colmap(cloud, scene, path, text=chosen == "colmap-text")


def _bytes(path: str | Path) -> int:
    files = storage.list_files(path) or [str(path)]
    return sum(storage.size(file) for file in files)
