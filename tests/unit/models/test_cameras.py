"""Rays and projections against independent float64 constructions."""

import torch

from spa3r.models.cameras import patch_rays, plucker_rays, projections
from tests.unit.models.scenes import random_cameras

GRID_HW, PATCH = (3, 5), 14


def test_rays_point_through_patch_centres_and_are_unit():
    _, K = random_cameras(2, 3, GRID_HW, PATCH)
    rays = patch_rays(K, GRID_HW, PATCH).double()
    assert rays.shape == (2, 3, 15, 3)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(2, 3, 15, dtype=torch.float64))
    # Row 1, column 4: its centre in pixels of the image.
    pixel = K[1, 2].double() @ rays[1, 2, 1 * 5 + 4]
    expected = torch.tensor([4.5 * PATCH, 1.5 * PATCH], dtype=torch.float64)
    torch.testing.assert_close(pixel[:2] / pixel[2], expected, rtol=1e-5, atol=1e-4)


def test_projection_takes_a_world_point_to_the_normalised_image():
    camera_from_world, K = random_cameras(2, 3, GRID_HW, PATCH)
    P, inverse = projections(camera_from_world, K, GRID_HW, PATCH)
    torch.testing.assert_close(inverse @ P, torch.eye(4).expand(2, 3, 4, 4), atol=1e-5, rtol=0)
    point = torch.tensor([0.3, -0.2, 5.0, 1.0])
    image = P[1, 1] @ point
    pixel = K[1, 1] @ (camera_from_world[1, 1] @ point)[:3]
    size = torch.tensor([GRID_HW[1] * PATCH, GRID_HW[0] * PATCH])
    torch.testing.assert_close(
        image[:2] / image[2] + 0.5, pixel[:2] / pixel[2] / size, rtol=1e-4, atol=1e-5
    )


def test_without_calibration_the_projection_is_the_rigid_transform():
    camera_from_world, _ = random_cameras(1, 2, GRID_HW, PATCH)
    P, inverse = projections(camera_from_world, None, GRID_HW, PATCH)
    assert torch.equal(P, camera_from_world)
    torch.testing.assert_close(inverse, torch.linalg.inv(P), atol=1e-5, rtol=1e-5)


def test_plucker_moment_is_that_of_every_point_on_the_world_ray():
    camera_from_world, K = random_cameras(2, 2, GRID_HW, PATCH)
    rays = patch_rays(K, GRID_HW, PATCH)
    direction, moment = plucker_rays(rays, camera_from_world).split(3, dim=-1)
    world_from_camera = torch.linalg.inv(camera_from_world)
    points = 2.5 * rays @ world_from_camera[..., :3, :3].mT + world_from_camera[..., None, :3, 3]
    torch.testing.assert_close(torch.linalg.cross(points, direction), moment, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(2, 2, 15))


def test_cameras_keep_float64_and_lift_what_is_less():
    camera_from_world, K = random_cameras(1, 2, GRID_HW, PATCH)
    for given, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        pose, calibration = camera_from_world.to(given), K.to(given)
        rays = patch_rays(calibration, GRID_HW, PATCH)
        results = (rays, plucker_rays(rays, pose), *projections(pose, calibration, GRID_HW, PATCH))
        assert {x.dtype for x in results} == {kept}
    P, inverse = projections(camera_from_world.double(), K.double(), GRID_HW, PATCH)
    identity = torch.eye(4, dtype=torch.float64).expand(1, 2, 4, 4)
    rotation = camera_from_world[..., :3, :3].double()
    rounding = (rotation @ rotation.mT - torch.eye(3)).abs().max().item()  # of the float32 poses
    torch.testing.assert_close(inverse @ P, identity, atol=20 * rounding, rtol=0)
