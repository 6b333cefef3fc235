"""A camera that the field is asked from. Numpy only.

Frames: OpenCV axes (x right, y down, z forward), the scene's world (`spa3r.latent`), lengths in the
scene's unit; `Camera.from_pose` takes other conventions.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spa3r.errors import ConfigError, SceneError
from spa3r.geometry import invert_rigid, is_rigid

if TYPE_CHECKING:
    from spa3r.latent import SceneLatent

# OpenGL's camera looks along -z with y up: axes of the camera, not of the world.
_OPENCV_FROM_OPENGL: Final = np.diag([1.0, -1.0, -1.0, 1.0])
CONVENTIONS: Final = {
    "opencv": "world_from_camera, x right, y down, z forward (ScanNet, this project)",
    "opengl": "world_from_camera, x right, y up, z backward (Blender, NeRF, ScanNet++ transforms)",
    "colmap": "camera_from_world, x right, y down, z forward (COLMAP images, VGGT extrinsics)",
}
"""What a 4 x 4 or 3 x 4 pose matrix may mean."""
MAX_SKEW: Final = 1e-3
"""Of K, as a share of fx. Decoding takes fx, fy, cx and cy alone, so that a skewed camera would be
answered as another one; this much moves a pixel of the image's edge by less than half a pixel."""
MAX_OFFSET: Final = 0.5
"""How far a principal point may lie outside the image, as a share of its side (crops)."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera in a scene's world.

    Raises:
        ConfigError: a matrix that is no rigid pose, K that is no calibration or of an image of
            another size, or a size that is not two positive whole numbers.
    """

    world_from_camera_44: np.ndarray  # float64
    K_33: np.ndarray  # float64, pixels of an image of `size`, without skew
    size: tuple[int, int] | None = None
    """(width, height) that K belongs to; None: the scene's working image."""

    def __post_init__(self) -> None:
        # A frozen dataclass is set through object.
        size = None if self.size is None else check_size(self.size)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "world_from_camera_44", check_pose(self.world_from_camera_44))
        object.__setattr__(self, "K_33", check_intrinsics(self.K_33, size))

    @classmethod
    def from_pose(
        cls,
        pose: np.ndarray,
        K_33: np.ndarray,
        *,
        convention: str = "opencv",
        size: tuple[int, int] | None = None,
    ) -> "Camera":
        """Camera from a 4 x 4 or 3 x 4 pose matrix in the scene's world and unit.

        Args:
            convention: one of CONVENTIONS.
            size: (width, height) in pixels of the image that K belongs to, such as the photo that
                was calibrated; None: the scene's working image.

        Raises:
            ConfigError: an unknown convention, or as `Camera`.
        """
        if convention not in CONVENTIONS:
            known = "; ".join(f"{name!r}: {meaning}" for name, meaning in CONVENTIONS.items())
            raise ConfigError(f"unknown camera convention {convention!r}; choose {known}")
        pose_44 = check_pose(pose)
        if convention == "colmap":
            pose_44 = invert_rigid(pose_44)
        elif convention == "opengl":
            pose_44 = pose_44 @ _OPENCV_FROM_OPENGL
        return cls(pose_44, K_33, size)

    @property
    def camera_from_world_44(self) -> np.ndarray:
        """Inverse of the pose, for projection."""
        return invert_rigid(self.world_from_camera_44)

    def from_metres(self, metres_per_unit: float) -> "Camera":
        """This camera, whose pose is in metres, in a scene's unit of length.

        Args:
            metres_per_unit: the scene's.

        Raises:
            SceneError: the scene's scale is unknown.
        """
        pose_44 = self.world_from_camera_44.copy()
        pose_44[:3, 3] /= known_scale(metres_per_unit)
        return replace(self, world_from_camera_44=pose_44)


Cameras = Sequence[Camera]
"""A trajectory: cameras in order of time."""


def context_camera(scene: "SceneLatent", view: int) -> Camera:
    """The camera of a context view, in the scene's world; negative indices count from the end.

    Raises:
        ConfigError: there is no such view.
    """
    count = scene.num_views
    if isinstance(view, bool) or not isinstance(view, int | np.integer):
        raise ConfigError(f"a context view is named by its index, a whole number, not {view!r}")
    if not -count <= view < count:
        raise ConfigError(
            f"the scene has {count} context views: choose 0..{count - 1}, or {-count}..-1 counted"
            f" from the end, not {view}"
        )
    pose_44 = invert_rigid(scene.camera_from_world_C44[view].double().numpy())
    return Camera(pose_44, scene.K_C33[view].double().numpy())


def context_cameras(scene: "SceneLatent") -> list[Camera]:
    """The cameras of all context views, in order."""
    return [context_camera(scene, view) for view in range(scene.num_views)]


# --- checks ---------------------------------------------------------------------------------------


def check_pose(pose: Any) -> np.ndarray:
    """A 4 x 4 or 3 x 4 pose as a float64 4 x 4 matrix. Raises ConfigError unless it is rigid."""
    given = _numbers(pose, "a pose is a 3 x 4 or 4 x 4 matrix")
    if given.shape not in ((3, 4), (4, 4)):
        raise ConfigError(f"a pose is a 3 x 4 or 4 x 4 matrix, got shape {given.shape}")
    pose_44 = np.eye(4)
    pose_44[: len(given)] = given
    if not is_rigid(pose_44):
        raise ConfigError(
            f"not a rigid pose (a rotation and a translation, no scale): {given.tolist()}"
        )
    return pose_44


def check_intrinsics(K_33: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """K as float64.

    Args:
        size: (width, height) of the image that K belongs to; None: not known here.

    Raises:
        ConfigError: not a calibration matrix in pixels without skew, or a principal point so far
            outside the image that K must belong to an image of another size.
    """
    form = "K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels with positive focal lengths"
    K_33 = _numbers(K_33, form)
    if K_33.shape != (3, 3):
        raise ConfigError(f"{form}, got shape {K_33.shape}")
    usable = bool(np.isfinite(K_33).all()) and K_33[2].tolist() == [0, 0, 1]
    if not usable or min(K_33[0, 0], K_33[1, 1]) <= 0 or K_33[1, 0] != 0:
        raise ConfigError(f"{form}, got {K_33.tolist()}")
    if abs(K_33[0, 1]) > MAX_SKEW * K_33[0, 0]:
        raise ConfigError(
            f"K has a skew of {K_33[0, 1]:g} pixels, which the field cannot be asked with: rectify"
            " the image, or set K[0, 1] to 0"
        )
    if size is not None:
        offset_2 = np.abs(K_33[:2, 2] / size - 0.5)
        if offset_2.max() > 0.5 + MAX_OFFSET:
            raise ConfigError(
                f"the principal point ({K_33[0, 2]:g}, {K_33[1, 2]:g}) of K lies far outside an"
                f" image of {size[0]} x {size[1]} pixels: give K in pixels of that image, or give"
                " the camera `size=(w, h)` of the image that K belongs to"
            )
    return K_33


def check_size(size: Any) -> tuple[int, int]:
    """(width, height) as given. Raises ConfigError unless they are two positive whole numbers."""
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        width = height = 0
    if min(width, height) < 1:
        raise ConfigError(f"a camera's size is (width, height) in whole pixels, got {size!r}")
    return width, height


def _numbers(value: Any, form: str) -> np.ndarray:
    """A float64 array. Raises ConfigError for what is none: text, rows of unequal length."""
    try:
        return np.asarray(value, np.float64)
    except (ValueError, TypeError, RuntimeError) as error:  # the last: a tensor with a gradient
        raise ConfigError(f"{form}: {str(error).partition(chr(10))[0]}") from error


def known_scale(metres_per_unit: float) -> float:
    """The scale as given. Raises SceneError where it is unknown (NaN)."""
    if not 0 < metres_per_unit < np.inf:
        raise SceneError(
            "the scene's metric scale is unknown: encode its images together with their poses in"
            " metres (world_from_camera=...), or stay in the scene's own unit"
        )
    return metres_per_unit
