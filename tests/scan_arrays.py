"""A posed RGB-D scan as arrays: a textured wall two metres away, seen while stepping sideways."""

import numpy as np


def scan_arrays(views: int = 4, width: int = 224, height: int = 168) -> dict[str, np.ndarray]:
    """What Spa3REncoder.encode takes; the wall's picture is fixed to the wall."""
    focal = 0.9 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    images, poses = [], []
    for i in range(views):
        pose = np.eye(4)
        pose[0, 3] = 0.1 * i
        x = (u - width / 2) / focal * 2 + pose[0, 3]
        y = (v - height / 2) / focal * 2
        colour = np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * x + 2 * y)], -1)
        images.append(((colour + 1) * 127).astype(np.uint8))
        poses.append(pose)
    return {
        "images": np.stack(images),
        "depth": np.full((views, height, width), 2000, np.uint16),
        "K": np.repeat(K[None], views, 0),
        "world_from_camera": np.stack(poses),
    }
