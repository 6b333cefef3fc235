"""In what two recipes differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from spa3r.config import Recipe
from spa3r.plain import to_dict


def changed(first: Recipe, other: Recipe) -> tuple[str, ...]:
    """Settings in which they differ, names aside, with the other's values: "model.camera = x"."""
    theirs = dict(_flat(to_dict(first)))
    return tuple(
        f"{name} = {value}"
        for name, value in _flat(to_dict(other))
        if value != theirs[name] and name != "name"
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
