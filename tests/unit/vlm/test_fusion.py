"""Every kind of fusion by itself: sizes, which token gets which geometry, refusals."""

from dataclasses import replace

import pytest
import torch

from spa3r.errors import ConfigError
from spa3r.vlm.batch import Geometry
from spa3r.vlm.fusion import PatchMerger, build_fusion
from tests.unit.vlm.small_bases import FUSIONS, GRID_HW, HEADS, HIDDEN, WIDTH

VIEWS = 2
GRIDS = [(2, 3)] * VIEWS  # image tokens: half of GRID_HW


def built(kind: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fusion = build_fusion(FUSIONS[kind], HIDDEN, HEADS, WIDTH)
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.normal_(0, 0.3)
    return fusion


def drawn_geometry(kind: str, *, grid_hw=GRID_HW) -> Geometry:
    config = FUSIONS[kind]
    length = 5 if config.source == "latents" else VIEWS * grid_hw[0] * grid_hw[1]
    generator = torch.Generator().manual_seed(0)
    tokens = tuple(torch.randn(length, WIDTH, generator=generator) for _ in config.layers)
    return Geometry(tokens=tokens, grid_hw=grid_hw, views=VIEWS)


def images() -> list[torch.Tensor]:
    return list(torch.randn(VIEWS, 6, HIDDEN, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", FUSIONS)
def test_shapes_of_every_kind(kind):
    fusion, geometry = built(kind), drawn_geometry(kind)
    fused = fusion(images(), geometry, GRIDS)
    assert [x.shape for x in fused.image_tokens] == [(6, HIDDEN)] * VIEWS
    changed = not torch.equal(torch.cat(fused.image_tokens), torch.cat(images()))
    assert changed == (kind not in ("append", "deep_stack", "none"))
    rows = {"append": [5], "deep_stack": [12, 12]}.get(kind, [])
    assert [len(x) for x in fused.added] == rows
    assert fusion.num_placeholders(geometry) == (5 if kind == "append" else 0)
    assert fusion.num_placeholders(None) == 0


@pytest.mark.parametrize("kind", ["add", "deep_stack"])
def test_a_patch_reaches_the_image_token_above_it_and_no_other(kind):
    fusion, geometry = built(kind), drawn_geometry(kind)

    def rows(of: Geometry) -> torch.Tensor:
        fused = fusion(images(), of, GRIDS)
        return torch.cat(fused.added or fused.image_tokens)

    before = rows(geometry)
    for view, row, column in ((0, 0, 0), (0, 3, 5), (1, 2, 1)):
        tokens = [x.clone() for x in geometry.tokens]
        tokens[0][view * 24 + row * 6 + column] += 1
        after = rows(replace(geometry, tokens=tuple(tokens)))
        moved = (after != before).any(dim=1).nonzero().flatten().tolist()
        assert moved == [view * 6 + (row // 2) * 3 + column // 2]


def test_the_four_patches_stand_in_order():
    merger = PatchMerger(1, 1, 2)
    merger.norm = torch.nn.Identity()
    merger.norm.weight = torch.ones(1)
    merger.mlp = torch.nn.Identity()
    seen = merger(torch.arange(24.0).reshape(1, 4, 6, 1))
    assert seen[0].tolist() == [0, 1, 6, 7]
    assert seen[4].tolist() == [14, 15, 20, 21]


def test_a_teacher_with_larger_patches_gives_each_to_all_that_it_covers():
    fusion = built("add")
    coarse = drawn_geometry("add", grid_hw=(2, 3))
    tokens_VhwD = coarse.tokens[0].reshape(VIEWS, 2, 3, WIDTH)
    fine = tokens_VhwD.repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(-1, WIDTH)
    same = Geometry(tokens=(fine,), grid_hw=GRID_HW, views=VIEWS)
    ours, theirs = (fusion(images(), x, GRIDS).image_tokens for x in (coarse, same))
    assert torch.equal(torch.cat(ours), torch.cat(theirs))


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "none"])
def test_geometry_of_another_width_or_number_of_layers(kind):
    fusion, geometry = built(kind), drawn_geometry(kind)
    narrow = replace(geometry, tokens=tuple(x[:, 1:] for x in geometry.tokens))
    more = replace(geometry, tokens=(*geometry.tokens, geometry.tokens[0]))
    for wrong in (narrow, more):
        with pytest.raises(ConfigError, match=f"takes {len(geometry.tokens)} of width {WIDTH};"):
            fusion(images(), wrong, GRIDS)


@pytest.mark.parametrize("kind", ["add", "deep_stack"])
@pytest.mark.parametrize("wrong", ["views", "grid", "mixed", "images", "tokens"])
def test_geometry_of_another_crop(kind, wrong):
    fusion, geometry, grids = built(kind), drawn_geometry(kind), list(GRIDS)
    if wrong == "views":
        geometry = replace(geometry, views=3)
    elif wrong == "grid":
        geometry = drawn_geometry(kind, grid_hw=(4, 5))
    elif wrong == "mixed":
        grids = [(2, 3), (3, 2)]
    elif wrong == "images":
        grids = GRIDS[:1]
    else:
        geometry = replace(geometry, tokens=tuple(x[1:] for x in geometry.tokens))
    with pytest.raises(ConfigError, match="both towers must get the same crop"):
        fusion(images(), geometry, grids)


def test_cross_attention_without_images_has_nothing_to_do():
    fusion = built("cross_attention")
    assert fusion([], drawn_geometry("cross_attention"), []).image_tokens == ()
