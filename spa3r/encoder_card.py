"""config.json of an encoder: what the student is, who taught it, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spa3r.config import ClipSpec, ModelConfig, TeacherSpec, from_dict, to_dict
from spa3r.errors import WeightsError
from spa3r.recipes.release import release

FORMAT: Final = "spa3r-encoder-1"
CONFIG_FILE: Final = "config.json"


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
            return cls(
                model=from_dict(ModelConfig, values["model"]),
                teacher=from_dict(TeacherSpec, values["teacher"]),
                references={k: dict(v) for k, v in values["references"].items()},
                image_width=int(values["image_width"]),
                image_multiple=int(values["image_multiple"]),
                provenance=dict(values["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{where}/{CONFIG_FILE} does not describe a Spa3R encoder"
                f" ({type(error).__name__}: {error})"
            ) from error

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
