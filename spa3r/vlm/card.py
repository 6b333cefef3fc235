"""config.json of a Spa3-VLM folder: the configuration, what it stands on, and how it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spa3r.errors import ConfigError, WeightsError
from spa3r.plain import config_hash, from_dict, to_dict
from spa3r.tune_config import VlmConfig

FORMAT: Final = "spa3-vlm-1"
CONFIG_FILE: Final = "config.json"
FUSION_FILE: Final = "fusion.safetensors"
LANGUAGE_FILES: Final = {
    "full": "language.safetensors",
    "lora": "lora.safetensors",
    "frozen": "",
}
"""By VlmConfig.language; "": the language model is the base's."""
BASE_FOLDER: Final = "base"


@dataclass(frozen=True, kw_only=True)
class VlmCard:
    """All of config.json."""

    vlm: VlmConfig
    geometry_width: int
    """Channels of a geometry token; 0 without geometry."""
    base: dict[str, str]
    """kind: "included" (in base/ of the folder) or "referenced"; uri: place or Hugging Face id;
    hash: of the weights that are the base's, which with language="full" is the tower alone."""
    encoder: dict[str, str]
    """hash, uri, version in the registry ("" without one); empty without geometry."""
    weights: dict[str, str]
    """Hash of the tensors of each file; empty before it is saved."""
    provenance: dict[str, Any]
    """Recipe, settings, steps, hashes of the instruction sets: plain JSON."""

    @property
    def hash(self) -> str:
        """16 hex digits over configuration, weights, base and encoder, wherever those lie."""
        config = to_dict(self.vlm)
        del config["base"]
        encoder = self.encoder.get("hash", "")
        return config_hash([config, self.base["hash"], encoder, self.weights])

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files of tensors."""
        language = LANGUAGE_FILES[self.vlm.language]
        return (FUSION_FILE, language) if language else (FUSION_FILE,)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "hash": self.hash, **to_dict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "VlmCard":
        """Raises WeightsError for anything but a Spa3-VLM's config.json."""
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}, this version reads {FORMAT!r}")
            card = cls(
                vlm=from_dict(VlmConfig, values["vlm"]),
                geometry_width=int(values["geometry_width"]),
                base={str(k): str(v) for k, v in values["base"].items()},
                encoder={str(k): str(v) for k, v in values["encoder"].items()},
                weights={str(k): str(v) for k, v in values["weights"].items()},
                provenance=dict(values["provenance"]),
            )
            card._check()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise WeightsError(
                f"{where}/{CONFIG_FILE} does not describe a Spa3-VLM"
                f" ({type(error).__name__}: {error}); name a folder that tuning wrote"
            ) from error
        return card

    def _check(self) -> None:
        parts = {"base": (self.base, {"kind", "uri", "hash"})}
        if self.vlm.fusion.kind != "none":
            parts["encoder"] = (self.encoder, {"hash", "uri", "version"})
        for name, (part, needed) in parts.items():
            if missing := sorted(needed - set(part)):
                raise ValueError(f"{name} lacks {', '.join(missing)}")
        if self.base["kind"] not in ("included", "referenced"):
            raise ValueError(f"base.kind is {self.base['kind']!r}")
        if set(self.weights) != set(self.files):
            raise ValueError(f"weights are of {sorted(self.weights)}, not {sorted(self.files)}")
        if not 0 <= self.geometry_width <= 1 << 20:
            raise ValueError(f"geometry_width {self.geometry_width}")


def readme(card: VlmCard) -> str:
    """README.md of the folder; no clock, no host, so the same for the same model."""
    facts = {
        "fusion": f"{card.vlm.fusion.kind} ({card.vlm.fusion.source})",
        "language model": card.vlm.language,
        "images": f"{card.vlm.image_width} pixels wide, in multiples of {card.vlm.image_multiple}",
        "base": f"{card.base['uri']} ({card.base['kind']}, {card.base['hash']})",
        "encoder": f"{card.encoder.get('uri', 'none')} ({card.encoder.get('hash', '-')})",
    }
    facts |= {
        name: str(value)
        for name, value in sorted(card.provenance.items())
        if isinstance(value, str | int | float)
    }
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in facts.items())
    return f"""---
library_name: spa3r-platform
tags: [spa3-vlm, spatial-reasoning, visual-question-answering]
---
# Spa3-VLM

A vision-language model that answers questions about a space from photos of it. Scene latents of a
frozen Spa3R encoder enter it; both encoder and base are named below, with their hashes.

    from spa3r.vlm.spa3_vlm import Spa3VLM
    vlm = Spa3VLM.from_pretrained("this folder")
    print(vlm.ask(images, "How many chairs are there?").text)

| what | value |
|---|---|
{rows}

## Terms

The code is under Apache-2.0. These weights were learnt on top of the base and the encoder above and
from the instruction sets of the provenance; the terms of all of them apply.
"""
