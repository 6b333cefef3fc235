"""A scene as plain arrays: what anything that has numpy reads.

Legend: L latents, D width, C context views, N points.
"""

import io
import json
from pathlib import Path
from typing import Final

import numpy as np

from spa3r import storage
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud

_README: Final = """\
A scene of the Spa3R platform. Axes: x right, y down, z forward (OpenCV); world = the camera of
view 0; lengths in the scene's unit (times metres_per_unit: metres); pixel centres at +0.5.

latents            (L, D) float16     the scene as its encoder left it
camera_from_world  (C, 4, 4) float32  of the context views
K                  (C, 3, 3) float32  their intrinsics, in pixels of the working images
image_size         (2,) int64         (width, height) of the working images in pixels
source_sizes       (C, 2) int64       (width, height) of the images as given; empty if unknown
names              (C,) text          of the images; empty if they had none
metres_per_unit    () float32         NaN if unknown
points             (N, 3) float32     of the surface, in the world
colours            (N, 3) uint8       RGB of the points
confidence         (N,) float32       of the points, higher is surer; the teacher's own scale
view               (N,) int32         context view that saw the point
provenance         () text            JSON: the encoder and the teacher that made the latents
"""


def write_npz(cloud: PointCloud, scene: SceneLatent, path: str | Path) -> None:
    """Compressed NPZ, atomically; the entry README names the others. Holds no pickles.

    Args:
        cloud: points in the scene's unit.
        path: file or URL.
    """
    arrays = {
        "README": np.array(_README),
        "latents": scene.latents_LD.cpu().numpy(),
        "camera_from_world": scene.camera_from_world_C44.cpu().numpy(),
        "K": scene.K_C33.cpu().numpy(),
        "image_size": np.array(scene.image_size),
        "source_sizes": np.array(scene.source_sizes, np.int64).reshape(-1, 2),
        "names": np.array(scene.names, np.str_),
        "metres_per_unit": np.float32(scene.metres_per_unit),
        "points": cloud.points_N3,
        "colours": cloud.colours_N3,
        "confidence": cloud.confidence_N,
        "view": cloud.view_N,
        "provenance": np.array(json.dumps(scene.provenance, sort_keys=True)),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    storage.write_bytes(path, buffer.getvalue())
