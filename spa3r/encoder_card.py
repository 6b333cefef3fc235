"""config.json of an encoder: what the student is, who taught it, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spa3r.config import ClipSpec, ModelConfig, TeacherSpec
from spa3r.errors import WeightsError
from spa3r.plain import from_dict, to_dict
from spa3r.recipes.release import release

FORMAT: Final = "spa3r-encoder-1"
CONFIG_FILE: Final = "config.json"
MAX_LAYERS: Final = 1000
MAX_WEIGHTS: Final = 10**10
"""A hundred times the published student: beyond it nothing is allocated."""


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """All of config.json."""

    model: ModelConfig
    teacher: TeacherSpec
    references: dict[str, dict[str, str]]  # "geometric" (and "semantic"): kind, uri, hash, variant
    image_width: int  # working width in pixels
    image_multiple: int
    provenance: dict[str, Any]  # recipe, settings, steps, data_hash, target_hash: plain JSON

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **to_dict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "EncoderCard":
        """Raises WeightsError for anything but an encoder's config.json."""
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}, this version reads {FORMAT!r}")
            card = cls(
                model=from_dict(ModelConfig, values["model"]),
                teacher=from_dict(TeacherSpec, values["teacher"]),
                references={k: dict(v) for k, v in values["references"].items()},
                image_width=int(values["image_width"]),
                image_multiple=int(values["image_multiple"]),
                provenance=dict(values["provenance"]),
            )
            card._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise WeightsError(
                f"{where}/{CONFIG_FILE} does not describe a Spa3R encoder"
                f" ({type(error).__name__}: {error})"
            ) from error
        return card

    def _check(self) -> None:
        missing = {"kind", "uri", "hash", "variant"} - set(self.references["geometric"])
        if missing:
            raise ValueError(f"references.geometric lacks {', '.join(sorted(missing))}")
        if self.image_multiple < 1 or self.image_width < self.image_multiple:
            raise ValueError(
                f"images of width {self.image_width} in multiples of {self.image_multiple}"
            )
        if self.image_multiple % self.model.patch_size:
            raise ValueError(
                f"patches of {self.model.patch_size} do not tile multiples of {self.image_multiple}"
            )
        if not isinstance(self.provenance.get("settings", {}), Mapping):
            raise ValueError("provenance.settings is not a table")
        model = self.model
        layers = model.encoder_layers + model.decoder_layers
        weights = layers * (4 + 2 * model.mlp_ratio) * model.width**2
        weights += model.width * (model.num_latents + self.teacher.width + model.num_registers)
        if layers > MAX_LAYERS or weights > MAX_WEIGHTS:
            raise ValueError(f"{layers} layers with {weights:.1e} weights: too large to be meant")

    @property
    def depth_offset(self) -> tuple[float, float]:
        """(x, y) of the pixel inside a patch whose depth the probe learnt.

        VGGT's target is the depth map at every patch_size-th pixel from the first: the centre of a
        patch's first pixel. The target of `rgbd` is the patch's mean.
        """
        if self.teacher.geometric == "rgbd":
            return self.model.patch_size / 2, self.model.patch_size / 2
        return 0.5, 0.5

    @property
    def context_counts(self) -> tuple[int, int]:
        """Smallest and largest number of context views in training.

        A converted checkpoint does not say; it counts as trained by the recipe `release`.
        """
        settings = self.provenance.get("settings")
        clips = from_dict(ClipSpec, settings["clips"]) if settings else release().clips
        counts = [int(n * (1 - ratio)) for n in clips.view_counts for ratio in clips.stages]
        return min(counts), max(counts)
