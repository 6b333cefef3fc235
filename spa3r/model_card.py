"""README.md of an encoder folder: what it is, where it came from, under which terms."""

from collections.abc import Mapping
from typing import Any

_TERMS = {
    "vggt": "VGGT's own licence (facebook/VGGT-1B is for non-commercial use)",
    "dinov3": "the DINOv3 licence",
    "rgbd": "Apache-2.0 (no weights)",
    "labels": "Apache-2.0 (no weights)",
}


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown from an encoder's config.json; no clock, no host, so the same for the same model."""
    provenance, model = card["provenance"], card["model"]
    teachers = "\n".join(
        f"| {role} | {ref['kind']} | `{ref['uri']}` | {ref['variant']} | `{ref['hash']}` |"
        f" {ref.get('licence') or _TERMS.get(ref['kind'], 'unknown')} |"
        for role, ref in sorted(card["references"].items())
    )
    facts = "\n".join(f"| {name} | `{provenance[name]}` |" for name in sorted(provenance)
                      if not isinstance(provenance[name], dict))  # fmt: skip
    return f"""---
library_name: spa3r-platform
license: other
tags: [spa3r, spatial-field, 3d]
---
# Spa3R encoder

Turns posed views of a scene into {model["num_latents"]} latents of width {model["width"]}, from
which the teachers' features of any other view can be predicted.

    from spa3r.hub import Spa3REncoder
    encoder = Spa3REncoder.from_pretrained("this folder")
    scene = encoder.encode(images)

## Provenance

| what | value |
|---|---|
{facts}

## Teachers

Referenced, not included. Loading looks in the argument `teacher`, then `SPA3R_TEACHER`, then here:

| role | kind | place | variant | hash | terms |
|---|---|---|---|---|---|
{teachers}

## Terms

The code is under Apache-2.0. These weights were learnt from the teachers above and from the scans
they looked at: the terms of both apply to them (ScanNet and ScanNet++: non-commercial research).
Generated rooms carry no terms of their own.
"""
