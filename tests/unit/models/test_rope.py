"""Rotary tables against complex numbers, one token at a time."""

import cmath

import pytest
import torch

from spa3r.models.rope import RopeTable, encoder_table, ray_table

CPU = torch.device("cpu")
BASE = 100.0


def complex_turn(x_C: torch.Tensor, position: tuple[int, int]) -> torch.Tensor:
    """Channels (axis, member, frequency): member 0 + i * member 1, times e^(i angle)."""
    num = len(x_C) // 4
    turned = x_C.clone()
    for axis in (0, 1):
        for k in range(num):
            first, second = axis * 2 * num + k, axis * 2 * num + k + num
            angle = position[axis] * BASE ** (-k / num)
            z = complex(x_C[first], x_C[second]) * cmath.exp(1j * angle)
            turned[first], turned[second] = z.real, z.imag
    return turned


def expected(x_STHC: torch.Tensor, positions: list[tuple[int, int]]) -> torch.Tensor:
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([complex_turn(x_C, position) for x_C in x_HC])
                    for x_HC, position in zip(x_THC, positions, strict=True)
                ]
            )
            for x_THC in x_STHC.double()
        ]
    )


def tables(dtype: torch.dtype) -> list[tuple[RopeTable, list[tuple[int, int]]]]:
    rows, columns = 2, 3
    patches = [(y + 1, x + 1) for y in range(rows) for x in range(columns)]
    rays = [(x, y) for y in range(rows) for x in range(columns)]
    return [
        (encoder_table(4, 2, (rows, columns), 8, BASE, CPU, dtype), [(0, 0)] * 4 + patches * 2),
        (ray_table((rows, columns), 8, BASE, CPU, dtype), rays),
    ]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_tables_turn_pairs_as_complex_numbers_do(dtype, atol):
    for table, positions in tables(dtype):
        x = torch.randn(2, len(positions), 2, 8, generator=torch.Generator().manual_seed(3)).to(
            dtype
        )
        turned = table.rotate(x)
        assert turned.dtype == dtype
        torch.testing.assert_close(turned.double(), expected(x, positions), atol=atol, rtol=0)
        back = expected(x, [(-a, -b) for a, b in positions])
        torch.testing.assert_close(table.unrotate(x).double(), back, atol=atol, rtol=0)
        part = slice(3, 5)
        assert torch.equal(table.rows(part).rotate(x[:, part]), turned[:, part])
