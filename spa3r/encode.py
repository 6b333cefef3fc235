"""From prepared views to scene latents: teacher, student, thinned surface, in batches of scenes.

Legend: B scenes, C context views, N tokens per view, L latents, D width.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import torch

from spa3r.latent import SceneLatent
from spa3r.latent_cache import LatentCache
from spa3r.surface import raster_size, thin_surface
from spa3r.vision_input import SceneViews, to_clip_views

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder

log = logging.getLogger(__name__)

SURFACE_POINTS: Final = 64_000
"""Of a scene, unless told otherwise. At 7 bytes each they take 448 kB; with the latents of the
full-size model (393 kB) and forty cameras a file stays under 1 MB."""
MAX_VIEWS_PER_BATCH: Final = 32
"""Views that are encoded together at most; a scene with more goes alone. A batch's memory grows
with its views, and 40 views of one scene are what a machine must hold anyway; a GPU is full long
before."""


def encode_scenes(
    encoder: "Spa3REncoder",
    scenes: Sequence[SceneViews],
    *,
    surface_points: int,
    cache: str | None,
) -> list[SceneLatent]:
    """Latents of scenes, in their order; see `Spa3REncoder.encode_many`."""
    for scene in scenes:
        if surface_points:
            num_views, height, width = scene.rgb_VHW3.shape[:3]
            raster_size(num_views, height, width, surface_points)  # refuses too few, before work
    store = None if cache is None else LatentCache(encoder, cache, surface_points)
    found: dict[int, SceneLatent] = {}
    for i, scene in enumerate(scenes):
        if store is not None and (hit := store.get(scene)) is not None:
            found[i] = hit
    missing = [i for i in range(len(scenes)) if i not in found]
    if store is not None and missing:
        store.check_writable()
    for batch in batches(missing, scenes):
        made = _encode_batch(encoder, [scenes[i] for i in batch], surface_points)
        for i, scene in zip(batch, made, strict=True):
            found[i] = scene
            if store is not None:
                store.put(scenes[i], scene)
    return [found[i] for i in range(len(scenes))]


def batches(wanted: Sequence[int], scenes: Sequence[SceneViews]) -> Iterator[list[int]]:
    """Indices of scenes to encode together: of one number of views, one size and the same kinds of
    arrays, at most MAX_VIEWS_PER_BATCH views unless a scene has more."""
    groups: dict[object, list[int]] = {}
    for i in wanted:
        alike = (scenes[i].rgb_VHW3.shape, *scenes[i].arrays())
        groups.setdefault(alike, []).append(i)
    for group in groups.values():
        size = max(1, MAX_VIEWS_PER_BATCH // len(scenes[group[0]].rgb_VHW3))
        for start in range(0, len(group), size):
            yield group[start : start + size]


# No inference_mode: its tensors cannot be used where a probe is trained on the latents.
@torch.no_grad()
def _encode_batch(
    encoder: "Spa3REncoder", scenes: Sequence[SceneViews], surface_points: int
) -> list[SceneLatent]:
    begin = time.monotonic()
    views, device = to_clip_views(scenes, encoder.device), encoder.device
    num_views, height, width = scenes[0].rgb_VHW3.shape[:3]
    seen = encoder.teacher.context(views, surface=surface_points > 0)
    patch = encoder.patch_size
    grid_hw = (height // patch, width // patch)
    stored = getattr(torch, encoder.card.teacher.dtype)  # the student learnt from rounded tokens
    with torch.autocast(device.type, torch.bfloat16, enabled=encoder.precision == "bfloat16"):
        latents_BLD = encoder.model.encode(seen.context_BCND.to(stored), grid_hw)
    made = []
    for b, scene in enumerate(scenes):
        surface = None
        if seen.depth_BCHW is not None and seen.confidence_BCHW is not None:
            surface = thin_surface(
                seen.depth_BCHW[b], seen.confidence_BCHW[b], scene.rgb_VHW3, surface_points
            )
        made.append(
            SceneLatent(
                latents_LD=latents_BLD[b].half().cpu(),
                camera_from_world_C44=seen.camera_from_world_BC44[b].float().cpu(),
                K_C33=seen.K_BC33[b].float().cpu(),
                grid_hw=grid_hw,
                patch_size=patch,
                metres_per_unit=float(seen.metres_per_unit_B[b]),
                names=scene.names,
                source_sizes=scene.source_sizes,
                surface=surface,
                provenance=encoder.scene_provenance(),
                encoder=encoder,
            )
        )
    log.debug(
        "encoded %d views of %d x %d pixels (scenes: %d) on %s in %s: %.1f s",
        num_views * len(scenes), width, height, len(scenes), device, encoder.precision,
        time.monotonic() - begin,
    )  # fmt: skip
    return made
