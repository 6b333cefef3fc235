"""Cameras in the page: frusta, and the page's own view moved to one of them.

The page's library uses the same axes for cameras as this project (x right, y down, z forward).
Legend: C context views, h w raster.
"""

import math
from typing import Final

import numpy as np
import viser
from viser import transforms

from spa3r.camera import Camera, context_cameras
from spa3r.latent import SceneLatent
from spa3r.trajectories import find_focus, up_direction

CONTEXT_COLOUR: Final = (245, 166, 35)
PATH_COLOUR: Final = (77, 171, 247)
_FRUSTUM: Final = 0.04
"""Size of a frustum as a share of the distance to what view 0 looks at."""
_FOV: Final = math.radians(60)
"""Vertical field of view of the page at first."""


class Stage:
    """Where up is, how far things are, and the frusta of the context views.

    The page starts a little behind and above view 0, looking at what view 0 looks at.
    """

    def __init__(self, server: viser.ViserServer, scene: SceneLatent) -> None:
        self.server = server
        self.cameras = context_cameras(scene)
        first = self.cameras[0]
        self.up_3 = up_direction(self.cameras)
        centre_3, forward_3 = _centre(first), first.world_from_camera_44[:3, 2]
        self.focus_3 = find_focus(scene)
        self.distance = max(float(np.linalg.norm(self.focus_3 - centre_3)), 1e-6)
        self._size = scene.image_size
        server.scene.set_up_direction(self.up_3)
        start = server.initial_camera
        start.position = centre_3 + self.distance * (0.35 * self.up_3 - 0.5 * forward_3)
        start.look_at = self.focus_3
        start.up = self.up_3
        start.fov = _FOV
        start.near = self.distance / 500
        for view, camera in enumerate(self.cameras):
            image_hw3 = None if scene.surface is None else scene.surface.rgb_Chw3[view].numpy()
            self.add_frustum(f"/context/{view}", camera, CONTEXT_COLOUR, image_hw3)

    def add_frustum(
        self,
        name: str,
        camera: Camera,
        colour: tuple[int, int, int],
        image_hw3: np.ndarray | None = None,
    ) -> viser.CameraFrustumHandle:
        """A frustum that the page's view moves to when it is clicked."""
        handle = self.server.scene.add_camera_frustum(
            name,
            *field_of_view(camera, self._size),
            scale=_FRUSTUM * self.distance,
            thickness=0.002 * self.distance,
            color=colour,
            image=image_hw3,
            cast_shadow=False,
            receive_shadow=False,
        )
        move(handle, camera)

        @handle.on_click
        def _(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
            ahead_3 = transforms.SO3(event.target.wxyz).as_matrix()[:, 2]
            with event.client.atomic():
                seen = event.client.camera
                seen.up_direction = self.up_3
                # From the camera itself the frustum's image would cover everything.
                seen.position = event.target.position + 1.02 * _length(event.target) * ahead_3
                seen.look_at = event.target.position + self.distance * ahead_3

        return handle


def move(handle: viser.CameraFrustumHandle, camera: Camera) -> None:
    """Puts a frustum where a camera is."""
    handle.wxyz = transforms.SO3.from_matrix(camera.world_from_camera_44[:3, :3]).wxyz
    handle.position = _centre(camera)


def field_of_view(camera: Camera, image_size: tuple[int, int]) -> tuple[float, float]:
    """(vertical angle in radians, width over height of a frustum with square pixels).

    A frustum of the page is symmetric: the principal point is taken to be the image's centre.
    """
    width, height = camera.size or image_size
    fx, fy = camera.K_33[0, 0], camera.K_33[1, 1]
    return 2 * math.atan(height / (2 * fy)), float(width / fx * fy / height)


def _length(frustum: viser.CameraFrustumHandle) -> float:
    """From the tip to the image: the page gives every frustum of one scale the same volume."""
    y = math.tan(frustum.fov / 2)
    return float(frustum.scale) / math.cbrt(y * y * frustum.aspect / 3)  # type: ignore[arg-type]


def _centre(camera: Camera) -> np.ndarray:
    return camera.world_from_camera_44[:3, 3]
