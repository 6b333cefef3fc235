"""`spa3r show`: contact sheet and camera path of an ingested scene, or facts of a latent file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flows.data_stages import require_shards
from flows.settings import Settings
from spa3r import storage
from spa3r.recipes import catalogue


def show(
    what: str,
    *,
    dataset: str,
    out: str | None,
    recipe: str = "tiny",
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Writes the picture or describes the file; returns one line.

    Raises:
        ShardError: no such dataset or scene. SceneError: no such file. FormatError: not a latent.
    """
    if what.endswith(".safetensors"):
        from spa3r.latent import SceneLatent

        return f"{what}: {SceneLatent.load(what).summary()}"
    from spa3r.data.shards import FrameTable
    from spa3r.viz.camera_path import camera_path
    from spa3r.viz.sheet import MAX_FRAMES, contact_sheet, stacked

    folder = require_shards(Settings.from_environment(), dataset, catalogue.get(recipe, overrides))
    table = FrameTable(folder)
    numbers = table.frames(what)
    shown = numbers[:: max(1, math.ceil(len(numbers) / MAX_FRAMES))]
    samples = [table.load_frame(what, number) for number in shown]
    # The whole way, but only the shown frames' points: a scan may have thousands of frames.
    poses = [row["world_from_camera"] for row in (table.row(what, n) for n in numbers)]
    poses_C44 = np.array([pose for pose in poses if pose]).reshape(-1, 4, 4)
    path = out or f"{what}.png"
    picture = contact_sheet(samples)
    if drawn := camera_path(samples, poses_C44, f"{what}, {len(numbers)} frames"):
        picture = stacked(picture, drawn)
    storage.write_bytes(path, picture)
    return f"{path}: {len(shown)} of {len(numbers)} frames of {what} from {folder}"
