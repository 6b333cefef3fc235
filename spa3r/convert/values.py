"""Tensors of a checkpoint that are no weights: of another number type, sparse, or not finite."""

from typing import Final

import torch
from torch import Tensor

from spa3r.convert.layout import DINO, Parts
from spa3r.errors import WeightsError
from spa3r.teachers.checkpoints import fold

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MASK: Final = ".bias_mask"
"""Of Meta's DINOv3: no weight, and NaN before its own code has filled it."""


def check_values(parts: Parts, where: str) -> None:
    """Raises WeightsError naming every tensor, as the file does, that a network cannot have."""
    named = [(parts.prefix + name, x) for name, x in (*parts.student.items(), *parts.vggt.items())]
    named += [(parts.prefix + DINO[0] + name, x) for name, x in parts.dino.items()]
    named += parts.adapter.items()
    problems = [f"{name} {why}" for name, x in sorted(named) if (why := _fault(name, x))]
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} tensors that are no weights: {'; '.join(fold(problems))};"
            " fetch it again, or save dense floating point weights of a run that did not diverge"
        )


def _fault(name: str, tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.dtype not in _FLOATS:
        return f"holds {str(tensor.dtype).removeprefix('torch.')}"
    if not name.endswith(_MASK) and not bool(torch.isfinite(tensor).all()):
        return "is not finite"
    return None
