import pytest
import torch
from torch import Tensor

from spa3r.teachers.chunks import by_chunks


@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_slices_cover_everything_once_and_in_order(size: int) -> None:
    x, seen = torch.arange(14.0).view(7, 2), list[slice]()

    def compute(chunk: slice) -> tuple[Tensor, Tensor]:
        seen.append(chunk)
        return 2 * x[chunk], x[chunk, 0] > 4

    double, large = by_chunks(compute, 7, size)
    assert torch.equal(double, 2 * x)
    assert torch.equal(large, x[:, 0] > 4)
    assert [i for chunk in seen for i in range(chunk.start, chunk.stop)] == list(range(7))
    assert max(chunk.stop - chunk.start for chunk in seen) == min(size, 7)
