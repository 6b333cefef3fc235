"""`spa3r show`: contact sheet and camera path of an ingested scene, or facts of a latent file."""

from collections.abc import Mapping
from typing import Any

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
    from spa3r.viz.sheet import contact_sheet, stacked

    folder = require_shards(Settings.from_environment(), dataset, catalogue.get(recipe, overrides))
    table = FrameTable(folder)
    samples = [(frame, table.load_frame(what, frame)) for frame in table.frames(what)]
    path = out or f"{what}.png"
    picture = contact_sheet(samples)
    if drawn := camera_path([sample for _, sample in samples], f"{what}, {len(samples)} frames"):
        picture = stacked(picture, drawn)
    storage.write_bytes(path, picture)
    return f"{path}: {len(samples)} frames of {what} from {folder}"
