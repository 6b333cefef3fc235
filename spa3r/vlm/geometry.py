"""What of a scene's geometry the fusion gets: the encoder's latents, or its teacher's tokens."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from spa3r.errors import ConfigError
from spa3r.tune_config import FusionConfig
from spa3r.vision_input import SceneViews, to_clip_views
from spa3r.vlm.batch import Geometry

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder
    from spa3r.latent import SceneLatent


class GeometrySource:
    """Geometry of prepared views, through one encoder."""

    def __init__(self, encoder: "Spa3REncoder", config: FusionConfig) -> None:
        self.encoder, self.config = encoder, config

    @property
    def width(self) -> int:
        """Of one geometry token."""
        return geometry_width(self.encoder, self.config)

    def of(self, views: SceneViews, cache: str | Path | None = None) -> Geometry:
        """Geometry of one scene.

        Args:
            views: at the model's working size; the encoder sees these very pixels.
            cache: folder or URL of scene latents, as of `Spa3REncoder.encode`. A teacher's tokens,
                a hundred times larger, are never kept there.

        Raises:
            ConfigError: patches of the encoder do not tile the views, or fusion.layers names a
                layer that the teacher does not have.
            TeacherError: the teacher is missing, another one, or needs depth and cameras.
        """
        if self.config.source == "latents":
            return of_scene(self.encoder.encode_views(views, surface_points=0, cache=cache))
        grid_hw = self.encoder.grid_of(views)
        layers_BVND = self.encoder.teacher.layer_tokens(
            to_clip_views([views], self.encoder.device), self.config.layers
        )
        return Geometry(
            tokens=tuple(x_BVND[0].flatten(0, 1).half().cpu() for x_BVND in layers_BVND),
            grid_hw=grid_hw,
            views=len(views.rgb_VHW3),
        )


def of_scene(scene: "SceneLatent") -> Geometry:
    """Geometry of a scene that is encoded already."""
    unit = scene.metres_per_unit
    return Geometry(
        tokens=(scene.latents_LD,),
        grid_hw=scene.grid_hw,
        views=scene.num_views,
        log_scale=math.log(unit) if math.isfinite(unit) and unit > 0 else None,
    )


def geometry_width(encoder: "Spa3REncoder", config: FusionConfig) -> int:
    """Channels of a geometry token.

    Raises:
        ConfigError: no encoder for a fusion that needs one is given.
    """
    if config.kind == "none":
        raise ConfigError("fusion none has no geometry: it needs no encoder")
    card = encoder.card
    return card.model.width if config.source == "latents" else card.teacher.width
