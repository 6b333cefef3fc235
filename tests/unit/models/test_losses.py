"""The objective: masks, kinds, the choice of views."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from spa3r.config import LossConfig
from spa3r.models.losses import FieldTargets, psfm_loss, select_views
from spa3r.models.spa3r import FieldPrediction

SHAPE = (2, 4, 6)
IS_TARGET = torch.tensor([[False, True, False, True], [False, False, True, True]])


def example(seed=0):
    torch.manual_seed(seed)
    prediction = FieldPrediction(
        geo_BVND=torch.randn(*SHAPE, 8, requires_grad=True),
        sem_BVND=torch.randn(*SHAPE, 5, requires_grad=True),
        depth_BVN=torch.rand(SHAPE, requires_grad=True),
    )
    targets = FieldTargets(
        geo_BVND=torch.randn(*SHAPE, 8),
        sem_BVND=torch.randn(*SHAPE, 5),
        depth_BVN=torch.rand(SHAPE) + 0.5,
        valid_BVN=torch.ones(SHAPE, dtype=torch.bool),
        is_target_BV=IS_TARGET,
    )
    return prediction, targets


def test_everything_valid_is_the_plain_mean():
    prediction, targets = example()
    for kind, plain in (("l1", F.l1_loss), ("smooth_l1", F.smooth_l1_loss)):
        losses = psfm_loss(prediction, targets, LossConfig(kind=kind, views="all"))
        expected = {
            "geo/l1": plain(prediction.geo_BVND, targets.geo_BVND),
            "geo/cos": (1 - F.cosine_similarity(prediction.geo_BVND, targets.geo_BVND, -1)).mean(),
            "sem/l1": plain(prediction.sem_BVND, targets.sem_BVND),
            "sem/cos": (1 - F.cosine_similarity(prediction.sem_BVND, targets.sem_BVND, -1)).mean(),
            "depth_prob": F.smooth_l1_loss(prediction.depth_BVN, targets.depth_BVN),
        }
        assert set(losses) == {*expected, "total"}
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=0)
        torch.testing.assert_close(losses["total"], sum(expected.values()), rtol=1e-6, atol=0)


def test_targets_only_equals_decoding_only_the_targets():
    prediction, targets = example()
    config = LossConfig(kind="l1", views="targets")

    def cut(part):
        values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
        there = {k: v for k, v in values.items() if v is not None}
        return type(part)(**{**values, **{k: select_views(v, IS_TARGET) for k, v in there.items()}})

    whole, part = (
        psfm_loss(*pair, config) for pair in (example(), (cut(prediction), cut(targets)))
    )
    for name in whole:
        torch.testing.assert_close(whole[name], part[name], rtol=1e-6, atol=0)


def test_context_views_get_no_gradient():
    prediction, targets = example()
    psfm_loss(prediction, targets, LossConfig(views="targets"))["total"].backward()
    for x in (prediction.geo_BVND, prediction.sem_BVND, prediction.depth_BVN):
        assert x.grad[~IS_TARGET].abs().max() == 0
        assert (x.grad[IS_TARGET].flatten(1).abs().amax(dim=1) > 0).all()


def test_invalid_tokens_and_unknown_depth_do_not_count():
    prediction, targets = example()
    valid = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.4
    depth = targets.depth_BVN.clone()
    depth[..., 0] = 0
    spoilt = dataclasses.replace(
        targets,
        valid_BVN=valid,
        depth_BVN=depth,
        geo_BVND=targets.geo_BVND.masked_fill(~valid[..., None], 1e4),
    )
    losses = psfm_loss(prediction, spoilt, LossConfig(kind="l1", views="all"))
    expected = F.l1_loss(prediction.geo_BVND[valid], targets.geo_BVND[valid])
    torch.testing.assert_close(losses["geo/l1"], expected)
    known = valid & (depth > 0)
    expected = F.smooth_l1_loss(prediction.depth_BVN[known], depth[known])
    torch.testing.assert_close(losses["depth_prob"], expected)


def test_nothing_valid_is_zero_not_nan():
    prediction, targets = example()
    nothing = dataclasses.replace(targets, valid_BVN=torch.zeros(SHAPE, dtype=torch.bool))
    losses = psfm_loss(prediction, nothing, LossConfig())
    assert losses["total"] == 0
    losses["total"].backward()
    assert prediction.geo_BVND.grad.abs().max() == 0


def test_absent_heads_and_targets():
    prediction, targets = example()
    geometric = dataclasses.replace(prediction, sem_BVND=None)
    without = dataclasses.replace(targets, sem_BVND=None)
    losses = psfm_loss(geometric, without, LossConfig())
    assert set(losses) == {"geo/l1", "geo/cos", "depth_prob", "total"}
    with pytest.raises(ValueError, match="'sem'"):
        psfm_loss(prediction, without, LossConfig())


def test_linguistic_features_count_as_the_semantic_ones_do():
    prediction, targets = example()
    renamed = [
        dataclasses.replace(part, sem_BVND=None, lang_BVND=part.sem_BVND)
        for part in (prediction, targets)
    ]
    losses = psfm_loss(prediction, targets, LossConfig())
    spoken = psfm_loss(*renamed, LossConfig())
    assert {name.replace("sem", "lang"): x for name, x in losses.items()} == spoken


def test_half_precision_predictions_are_scored_in_float32():
    prediction, targets = example()
    low = dataclasses.replace(prediction, geo_BVND=prediction.geo_BVND.bfloat16())
    loss = psfm_loss(low, targets, LossConfig(views="all"))["geo/l1"]
    assert loss.dtype == torch.float32
    expected = (low.geo_BVND.float() - targets.geo_BVND).abs().mean()
    torch.testing.assert_close(loss, expected)


def test_select_views_keeps_order_and_refuses_uneven_scenes():
    x = torch.arange(8).view(2, 4)
    assert select_views(x, IS_TARGET).tolist() == [[1, 3], [6, 7]]
    assert select_views(x, ~IS_TARGET).tolist() == [[0, 2], [4, 5]]
    with pytest.raises(ValueError, match="marked views"):
        select_views(x, torch.tensor([[True, True, True, False], [True, False, False, False]]))
