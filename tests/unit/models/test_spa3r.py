"""The student as a whole: shapes, options, initialisation, batching, precision."""

from itertools import combinations

import pytest
import torch

from spa3r.config import ModelConfig
from spa3r.errors import ConfigError
from spa3r.models.spa3r import Spa3RModel
from tests.unit.models.scenes import SMALL, random_cameras, small_model

GRID_HW = (3, 4)
TOKENS = GRID_HW[0] * GRID_HW[1]


def inputs(scenes=2, context=2, views=3, grid_hw=GRID_HW):
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(
        scenes, context, grid_hw[0] * grid_hw[1], SMALL.geo_width, generator=generator
    )
    return tokens, *random_cameras(scenes, views, grid_hw, SMALL.patch_size)


def run(model, tokens, pose, K, grid_hw=GRID_HW):
    latents = model.encode(tokens, grid_hw)
    return latents, model.predict(model.decode(latents, pose, K, grid_hw))


@pytest.mark.parametrize("camera", ["prope", "plucker"])
def test_shapes(camera):
    model = small_model(camera=camera)
    latents, prediction = run(model, *inputs())
    assert latents.shape == (2, SMALL.num_latents, SMALL.width)
    assert prediction.geo_BVND.shape == (2, 3, TOKENS, SMALL.geo_width)
    assert prediction.sem_BVND.shape == (2, 3, TOKENS, SMALL.sem_width)
    assert prediction.depth_BVN.shape == (2, 3, TOKENS)


@pytest.mark.parametrize("camera", ["prope", "plucker"])
def test_the_camera_matters(camera):
    model = small_model(camera=camera)
    tokens, pose, K = inputs()
    _, here = run(model, tokens, pose, K)
    _, there = run(model, tokens, pose.roll(1, dims=1), K)
    assert (here.geo_BVND - there.geo_BVND).abs().mean() > 1e-3


@pytest.mark.parametrize("depth_probe", ["hidden", "features"])
@pytest.mark.parametrize("camera", ["prope", "plucker"])
def test_every_parameter_learns_and_the_probe_teaches_nobody(camera, depth_probe):
    model = small_model(camera=camera, depth_probe=depth_probe, linguistic=True)
    _, prediction = run(model, *inputs())
    prediction.depth_BVN.square().mean().backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {f"depth_prob.{n}" for n, _ in model.depth_prob.named_parameters()}
    sum(x.square().mean() for x in prediction.features().values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_batch_equals_its_scenes_one_by_one():
    model = small_model()
    tokens, pose, K = inputs(scenes=3)
    latents, prediction = run(model, tokens, pose, K)
    for i in range(3):
        one_latents, one = run(model, tokens[i : i + 1], pose[i : i + 1], K[i : i + 1])
        torch.testing.assert_close(one_latents[0], latents[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.geo_BVND[0], prediction.geo_BVND[i], atol=1e-4, rtol=1e-4)


def test_a_view_is_decoded_alone():
    model = small_model()
    tokens, pose, K = inputs()
    latents, prediction = run(model, tokens, pose, K)
    alone = model.predict(model.decode(latents, pose[:, 1:2], K[:, 1:2], GRID_HW))
    torch.testing.assert_close(
        alone.geo_BVND[:, 0], prediction.geo_BVND[:, 1], atol=1e-4, rtol=1e-4
    )


def test_context_views_are_a_set():
    model = small_model()
    tokens, _, _ = inputs(context=4)
    forward, backward = model.encode(tokens, GRID_HW), model.encode(tokens.flip(1), GRID_HW)
    torch.testing.assert_close(forward, backward, atol=1e-5, rtol=1e-5)


def test_one_model_takes_any_grid_and_number_of_views():
    model = small_model()
    for context, grid_hw in ((1, (2, 2)), (5, (4, 3)), (2, (1, 6))):
        tokens, pose, K = inputs(context=context, views=1, grid_hw=grid_hw)
        _, prediction = run(model, tokens, pose, K, grid_hw)
        assert prediction.depth_BVN.shape == (2, 1, grid_hw[0] * grid_hw[1])
    with pytest.raises(ValueError, match="do not tile"):
        model.encode(inputs()[0], (2, 2))


def test_bfloat16_autocast_is_close_to_float32():
    torch.manual_seed(0)
    model = Spa3RModel(SMALL)
    latents, prediction = run(model, *inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_latents, low = run(model, *inputs())
    assert low_latents.dtype == torch.float32  # the residual stream and the norms stay float32
    pairs = ((low_latents, latents), *zip(both(low), both(prediction), strict=True))
    for ours, theirs in pairs:
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert 0 < error < 0.02  # bfloat16 rounds to 1 in 256; measured 0.004 to 0.009


def both(prediction):
    return prediction.geo_BVND, prediction.sem_BVND


@pytest.mark.parametrize("camera", ["prope", "plucker"])
@pytest.mark.parametrize("standardise", [False, True])
def test_init_weights_forgets_nothing(camera, standardise):
    changes = {"camera": camera, "standardise": standardise, "linguistic": True}
    config = ModelConfig(**{**vars_of(SMALL), **changes, "depth_probe": "features"})
    with torch.device("meta"):
        model = Spa3RModel(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan"))
    model.init_weights()
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), name
    assert 0.018 < model.encoder.blocks[0].mlp.fc1.weight.std() < 0.022
    assert model.decoder.register_tokens.abs().max() < 1e-5


def vars_of(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_target_that_is_off_has_no_head():
    assert set(small_model(semantic=False).heads) == {"geo"}
    model = small_model(geometric=False)
    _, prediction = run(model, *inputs())
    assert prediction.geo_BVND is None and set(prediction.features()) == {"sem"}


ALL_KINDS = {"geo": "geometric", "sem": "semantic", "lang": "linguistic"}
COMBINATIONS = [kinds for n in (1, 2, 3) for kinds in combinations(ALL_KINDS, n)]


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
def test_any_combination_of_targets(kinds):
    switches = {name: kind in kinds for kind, name in ALL_KINDS.items()}
    model = small_model(depth_probe="features", standardise=True, **switches)
    widths = {"geo": SMALL.geo_width, "sem": SMALL.sem_width, "lang": SMALL.lang_width}
    assert list(model.heads) == list(kinds)
    assert model.depth_prob.fc1.in_features == sum(widths[kind] for kind in kinds)
    # The encoder's input is geometric whatever is predicted.
    assert {n.partition("_")[0] for n, _ in model.named_buffers()} == {"geo", *kinds}
    _, prediction = run(model, *inputs())
    assert {k: x.shape[-1] for k, x in prediction.features().items()} == {
        kind: widths[kind] for kind in kinds
    }


def test_the_probe_on_features_reads_them_in_order_and_nothing_else():
    model = small_model(depth_probe="features", linguistic=True)
    _, found = run(model, *inputs())
    features = torch.cat((found.geo_BVND, found.sem_BVND, found.lang_BVND), dim=-1)
    torch.testing.assert_close(model.depth_prob(features)[..., 0], found.depth_BVN)


def statistics(model):
    generator = torch.Generator().manual_seed(6)
    return {
        name: torch.rand(buffer.shape, generator=generator) + 0.5
        for name, buffer in model.named_buffers()
    }


def test_standardisation_is_part_of_the_model():
    model = small_model(standardise=True, linguistic=True)
    tokens, pose, K = inputs()
    given = statistics(model)
    assert set(given) == {f"{kind}_{what}" for kind in ALL_KINDS for what in ("mean", "std")}
    plain = small_model(linguistic=True)
    assert not dict(plain.named_buffers())
    plain.load_state_dict(model.state_dict(), strict=False)
    model.set_statistics(given)
    expected = plain.encode((tokens - given["geo_mean"]) / given["geo_std"], GRID_HW)
    torch.testing.assert_close(model.encode(tokens, GRID_HW), expected)
    _, prediction = run(model, tokens, pose, K)
    raw = model.destandardise(prediction)
    for kind, x in prediction.features().items():
        again = model.standardise(kind, raw.features()[kind])
        torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)
    assert set(given) < set(model.state_dict())


def test_bad_statistics_are_refused():
    model = small_model(standardise=True)
    good = statistics(model)
    for changes, message in (
        ({"sem_mean": torch.zeros(3)}, "sem_mean has shape"),
        ({"geo_std": torch.zeros(SMALL.geo_width)}, "geo_std must be"),
        ({"geo_mean": torch.full((SMALL.geo_width,), float("nan"))}, "geo_mean must be"),
        ({"more": torch.zeros(1)}, "the model has"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.set_statistics({**good, **changes})
