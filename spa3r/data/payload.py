"""Tensors of a safetensors payload, as views of the memory that it was read into.

The library copies every tensor; of targets that is the time of reading them once more.
"""

import json
import math
from typing import Any, Final

import torch
from torch import Tensor

from spa3r.data.quantise import Layout
from spa3r.errors import DamageError

MAX_HEADER: Final = 65536
"""Bytes that the header of a few tensors may take."""
_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def parse_payload(
    payload: bytes | memoryview, layout: Layout, where: str, *, cure: str
) -> dict[str, Tensor]:
    """Tensors of a safetensors payload that must hold exactly those of the layout.

    Args:
        payload: they are views of it, if it can be written to.
        where, cure: what an error begins with, and what it tells to do.

    Raises:
        DamageError: damaged, or other names, shapes or dtypes.
    """
    try:
        start, entries = _entries(payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise DamageError(f"{where}: damaged ({why}); {cure}") from error
    found = {name: (shape, dtype) for name, (shape, dtype, _) in entries.items()}
    if found != layout:
        wrong = sorted(n for n in {*found, *layout} if found.get(n) != layout.get(n))
        said = ", ".join(f"{n}: {found.get(n)}, not {layout.get(n)}" for n in wrong)
        raise DamageError(f"{where}: {said}; {cure}")
    memory = bytearray(payload) if memoryview(payload).readonly else payload
    return {
        name: torch.frombuffer(
            memory, dtype=dtype, count=math.prod(shape), offset=start + begin
        ).view(shape)
        for name, (shape, dtype, begin) in entries.items()
    }


def _entries(
    payload: bytes | memoryview,
) -> tuple[int, dict[str, tuple[tuple[int, ...], torch.dtype, int]]]:
    """Where the data begins, and shape, dtype and place in the data of every tensor.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is no such payload, or
            its tensors do not cover its data exactly.
    """
    length = int.from_bytes(bytes(payload[:8]), "little")
    start = 8 + length
    if not 0 < length <= MAX_HEADER or start > len(payload):
        raise ValueError(f"a header of {length} bytes in {len(payload)}")
    header: dict[str, Any] = json.loads(bytes(payload[8:start]))
    header.pop("__metadata__", None)
    entries: dict[str, tuple[tuple[int, ...], torch.dtype, int]] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
        begin, upto = entry["data_offsets"]
        if not all(type(n) is int and n > 0 for n in (*shape, upto)) or begin != end:
            raise ValueError(f"tensor {name} at bytes {begin}..{upto}, expected at {end}")
        if upto - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} of {shape} in {upto - begin} bytes")
        entries[name] = (shape, dtype, begin)
        end = upto
    if start + end != len(payload):
        raise ValueError(f"{end} bytes of tensors in {len(payload) - start}")
    return start, entries
