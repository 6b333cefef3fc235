"""README.md of an encoder folder: what it is, where it came from, under which terms."""

from collections.abc import Mapping, Sequence
from typing import Any

from spa3r.licences import OPEN, Licence, Part, licences_of, parts


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown from an encoder's config.json; no clock, no host, so the same for the same model."""
    provenance, model = card["provenance"], card["model"]
    references, datasets = card["references"], provenance.get("datasets")
    teachers = "\n".join(
        f"| {role} | {ref['kind']} | `{ref['uri']}` | {ref['variant']} | `{ref['hash']}` |"
        for role, ref in sorted(references.items())
    )
    facts = "\n".join(
        f"| {name} | `{_plain(provenance[name])}` |"
        for name in sorted(provenance)
        if not isinstance(provenance[name], dict)
    )
    terms = "\n".join(_row(part) for part in parts(references, datasets))
    return f"""---
library_name: spa3r-platform
{_front_matter(licences_of(references, datasets))}
tags: [spa3r, spatial-field, 3d]
---
# Spa3R encoder

Turns posed views of a scene into {model["num_latents"]} latents of width {model["width"]}, from
which the teachers' features of any other view can be predicted.

    from spa3r.hub import Spa3REncoder
    encoder = Spa3REncoder.from_pretrained("this folder")
    scene = encoder.encode(images)
    view = scene.query(0)  # or any camera: features and depth

## Provenance

| what | value |
|---|---|
{facts}

## Teachers

Referenced, not included. Loading looks in the argument `teacher`, then `SPA3R_TEACHER`, then here:

| role | kind | place | variant | hash |
|---|---|---|---|---|
{teachers}

## Terms

The code is under Apache-2.0. These weights were learnt from the teachers and the data below, whose
terms apply to them too. The linked pages are what counts:

| part | name | terms | note |
|---|---|---|---|
{terms}
"""


def _front_matter(licences: Sequence[Licence]) -> str:
    """Hugging Face's licence fields: a name of its own list, or `other` with name and link."""
    if len(licences) == 1 and licences[0].name in OPEN:
        return f"license: {licences[0].name}"
    lines = ["license: other", f"license_name: {'-and-'.join(x.name for x in licences)}"]
    links = [licence.url for licence in licences if licence.url]
    return "\n".join(lines + [f"license_link: {link}" for link in links[:1]])


def _row(part: Part) -> str:
    licence = part.licence
    terms = f"[{licence.name}]({licence.url})" if licence.url else licence.name
    return f"| {part.role} | {part.name} | {terms} | {licence.note} |"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
