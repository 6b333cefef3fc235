"""A camera that the field is asked from. Numpy only.

Frames: OpenCV axes (x right, y down, z forward), world = the scene's view 0, lengths in the
scene's unit; `Camera.from_pose` takes other conventions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

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


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera in a scene's world.

    Raises:
        ConfigError: a matrix that is no rigid pose, K that is no calibration, or a size that is
            not two positive numbers.
    """

    world_from_camera_44: np.ndarray  # float64
    K_33: np.ndarray  # float64, pixels of an image of `size`
    size: tuple[int, int] | None = None
    """(width, height) that K belongs to; None: the scene's working image."""

    def __post_init__(self) -> None:
        # A frozen dataclass is set through object.
        object.__setattr__(self, "world_from_camera_44", check_pose(self.world_from_camera_44))
        object.__setattr__(self, "K_33", check_intrinsics(self.K_33))
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ConfigError(f"a camera's size is (width, height) in pixels, got {self.size}")

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

        Raises:
            ConfigError: an unknown convention, a matrix that is no rigid pose, or K that is no
                calibration.
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


def check_pose(pose: np.ndarray) -> np.ndarray:
    """A 4 x 4 or 3 x 4 pose as a float64 4 x 4 matrix. Raises ConfigError unless it is rigid."""
    given = np.asarray(pose, np.float64)
    if given.shape not in ((3, 4), (4, 4)):
        raise ConfigError(f"a pose is a 3 x 4 or 4 x 4 matrix, got shape {given.shape}")
    pose_44 = np.eye(4)
    pose_44[: len(given)] = given
    if not is_rigid(pose_44):
        raise ConfigError(
            f"not a rigid pose (a rotation and a translation, no scale): {given.tolist()}"
        )
    return pose_44


def check_intrinsics(K_33: np.ndarray) -> np.ndarray:
    """K as float64. Raises ConfigError unless it is a calibration matrix in pixels."""
    K_33 = np.asarray(K_33, np.float64)
    usable = K_33.shape == (3, 3) and bool(np.isfinite(K_33).all())
    if not usable or min(K_33[0, 0], K_33[1, 1]) <= 0 or K_33[2].tolist() != [0, 0, 1]:
        raise ConfigError(
            "K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels with positive focal lengths,"
            f" got {K_33.tolist()}"
        )
    return K_33


def known_scale(metres_per_unit: float) -> float:
    """The scale as given. Raises SceneError where it is unknown (NaN)."""
    if not 0 < metres_per_unit < np.inf:
        raise SceneError(
            "the scene's metric scale is unknown: encode its images together with their poses in"
            " metres (world_from_camera=...), or stay in the scene's own unit"
        )
    return metres_per_unit
