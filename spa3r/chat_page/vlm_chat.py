"""Spa3-VLM behind the page: looking is encoding once, and every question uses what was seen.

Legend: V views, L latents, H W pixels.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import Tensor

from spa3r.camera import context_cameras
from spa3r.chat_page.seen import Answered, Seen, Written
from spa3r.hub import PHOTOS_NEED_VGGT
from spa3r.instructions import Turn
from spa3r.storage import redacted
from spa3r.vision_input import SceneViews
from spa3r.viz.maps import depth_maps, pca_maps
from spa3r.vlm.batch import Geometry
from spa3r.vlm.geometry import of_scene
from spa3r.vlm.shares import latent_shares, view_shares
from spa3r.vlm.spa3_vlm import MAX_NEW_TOKENS, Request

if TYPE_CHECKING:
    from spa3r.latent import SceneLatent
    from spa3r.vlm.spa3_vlm import Spa3VLM

_HASH: Final = 8
"""Digits of a hash that are shown."""


@dataclass
class _Inner:
    """What is known of a scene."""

    geometry: Geometry | None
    latent_LV: Tensor | None = None


class VlmChat:
    """A `ChatModel` (spa3r/chat_page/seen.py)."""

    def __init__(self, vlm: "Spa3VLM") -> None:
        self.vlm = vlm
        config = vlm.card.vlm
        self.working_size = (config.image_width, config.image_multiple)
        self.max_views = config.max_frames
        self.facts = facts(vlm)
        by_sensor = (
            vlm.encoder is not None and vlm.encoder.card.references["geometric"]["kind"] == "rgbd"
        )
        self.photos_refused = PHOTOS_NEED_VGGT if by_sensor else ""

    def look(self, views: SceneViews) -> Seen:
        """Encodes the views; one that is asked without geometry has nothing to do here."""
        encoder, source = self.vlm.encoder, self.vlm.geometry
        if encoder is None:
            return Seen(views=views, inner=_Inner(None))
        scene = encoder.encode_views(views, surface_points=0)
        geometry: Geometry | None = None
        if source is not None:
            latents = source.config.source == "latents"
            geometry = of_scene(scene) if latents else source.of(views)
        return Seen(views=views, maps=field_maps(scene), inner=_Inner(geometry))

    def answer(self, seen: Seen, question: str) -> Iterator[str | Written | Answered]:
        """See ChatModel."""
        inner: _Inner = seen.inner
        request = Request(
            turns=(Turn(role="user", text=question),), views=seen.views, geometry=inner.geometry
        )
        began, text = time.monotonic(), ""
        for part in self.vlm.stream(request, max_new_tokens=MAX_NEW_TOKENS):
            text += part
            yield part
        seconds = time.monotonic() - began
        tokens = self.vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        yield Written(seconds=seconds, truncated=len(tokens) >= MAX_NEW_TOKENS)
        yield Answered(view_shares=view_shares(self.vlm, request, text, self._latent_shares(seen)))

    def _latent_shares(self, seen: Seen) -> Tensor | None:
        """Which views the scene's latents are of: the teacher looks once more, for all answers."""
        inner, fusion = seen.inner, self.vlm.card.vlm.fusion
        if (fusion.kind, fusion.source) != ("cross_attention", "latents"):
            return None
        if inner.latent_LV is None and self.vlm.encoder is not None:
            inner.latent_LV = latent_shares(self.vlm.encoder, seen.views)
        return inner.latent_LV


def field_maps(scene: "SceneLatent") -> dict[str, np.ndarray]:
    """What the field predicts at the scene's own views, (V, H, W, 3) uint8 each: its kinds of
    features, each in one basis of colours over all views, and depth."""
    field = scene.query(context_cameras(scene))
    maps = {f"{kind} features": pca_maps(field, kind) for kind in field.kinds}
    return {**maps, "depth": depth_maps(field)}


def facts(vlm: "Spa3VLM") -> dict[str, str]:
    """What the model is, for a line of text."""
    card, fusion = vlm.card, vlm.card.vlm.fusion
    tiny = card.base["kind"] == "included"
    found = {
        "Model": f"{redacted(vlm.where)} ({vlm.hash[:_HASH]})",
        "Base": "tiny, made by this project" if tiny else redacted(card.base["uri"]),
    }
    if vlm.encoder is None:
        found["Geometry"] = "none"
    else:
        teacher = vlm.encoder.card.references["geometric"]["kind"]
        version = card.encoder.get("version", "")
        named = f"version {version}" if version else redacted(vlm.encoder.where)
        found["Encoder"] = f"{named} ({vlm.encoder.hash[:_HASH]}), taught by {teacher}"
        found["Geometry"] = f"{fusion.kind.replace('_', ' ')} on {fusion.source}"
    found["Tuned on"] = tuned_on(card.provenance)
    return found


def tuned_on(provenance: Mapping[str, Any]) -> str:
    """The instruction sets of a card's provenance, or that there are none."""
    sets = ", ".join(provenance.get("sets", {}))
    return f"{sets}, {provenance.get('steps', 0)} steps" if sets else "nothing"
