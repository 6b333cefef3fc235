"""Working through views a few at a time, so that memory does not grow with their number."""

from collections.abc import Callable, Sequence

from torch import Tensor

VIEWS_PER_CHUNK = 8
"""Of a teacher unless told otherwise: 8 views of 518 x 378 are 8032 tokens, enough to fill a GPU,
and the widest maps of the depth head take 0.8 GB."""


def by_chunks(compute: Callable[[slice], Sequence[Tensor]], count: int, size: int) -> list[Tensor]:
    """`compute` over slices of 0..count, its answers joined along their first dimension.

    One slice's intermediate results live at a time, and no answer is held twice.

    Args:
        compute: from a slice to tensors whose first dimension is the slice's length.
        count: at least 1.
        size: length of every slice but the last.
    """
    whole: list[Tensor] = []
    for start in range(0, count, size):
        chunk = slice(start, min(start + size, count))
        parts = compute(chunk)
        if start == 0 and chunk.stop == count:
            return list(parts)
        if start == 0:
            whole = [part.new_empty(count, *part.shape[1:]) for part in parts]
        for tensor, part in zip(whole, parts, strict=True):
            tensor[chunk] = part
    return whole
