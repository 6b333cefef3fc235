"""Configuration as plain data: JSON and back without loss, dotted overrides, one content hash."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from spa3r.errors import ConfigError

C = TypeVar("C")


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready dictionary of a configuration dataclass (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """Inverse of `to_dict`. Unknown keys and values of the wrong type raise ConfigError."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"{cls.__name__}: unknown settings {unknown}")
    arguments = {key: _convert(cls, key, hints[key], value) for key, value in values.items()}
    return cls(**arguments)


def override(config: C, values: Mapping[str, Any]) -> C:
    """Copy with dotted overrides, e.g. {"train.steps": 40}: for debugging and tests, logged.

    All of them are set before the result is checked, so their order does not matter.
    """
    plain = to_dict(config)
    for dotted, value in values.items():
        *path, name = dotted.split(".")
        table: Any = plain
        for part in path:
            table = table.get(part) if isinstance(table, dict) else None
        require(
            isinstance(table, dict) and name in table,
            f"{type(config).__name__} has no setting {dotted!r}",
        )
        table[name] = value
    return from_dict(type(config), plain)


def config_hash(*configs: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of dataclasses or plain data."""
    plain = [to_dict(c) if dataclasses.is_dataclass(c) else c for c in configs]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _convert(cls: type, key: str, hint: Any, value: Any) -> Any:
    """Checks and converts one JSON value to the field's declared type."""
    where = f"{cls.__name__}.{key}"
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        require(isinstance(value, Mapping), f"{where} must be a table, got {value!r}")
        return from_dict(typing.cast(type, hint), value)
    if origin is Literal:
        choices = typing.get_args(hint)
        require(value in choices, f"{where} must be one of {list(choices)}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}")
        inside = typing.get_args(hint)
        if len(inside) == 2 and inside[1] is Ellipsis:
            inside = (inside[0],) * len(value)
        require(
            len(value) == len(inside), f"{where} must have {len(inside)} entries, got {value!r}"
        )
        pairs = enumerate(zip(inside, value, strict=True))
        return tuple(_convert(cls, f"{key}[{i}]", kind, one) for i, (kind, one) in pairs)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    matches = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    require(matches, f"{where} must be {hint.__name__}, got {value!r}")
    return value
