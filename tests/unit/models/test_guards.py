"""Promises of the student that a researcher leans on, each against a slow or independent answer.

More of them live beside their subjects: context views are a set and a view is decoded alone
(test_spa3r.py); the world frame of several cameras (test_prope.py); cut rows (test_transformer.py);
context leakage, determinism and precision of the teachers (tests/unit/teachers).
"""

import dataclasses

import pytest
import torch

from spa3r.models.cameras import projections
from spa3r.models.prope import DecoderPosition
from spa3r.models.rope import ray_table
from spa3r.models.spa3r import Spa3RModel
from spa3r.models.transformer import Transformer
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dataset_cameras import dataset_cameras
from tests.unit.models import slow_field
from tests.unit.models.scenes import SMALL, random_cameras, small_model

CPU = torch.device("cpu")
PATCH = SMALL.patch_size
VARIANTS = {
    "paper": {},
    "plucker": {"camera": "plucker"},
    "standardised": {"standardise": True},
    "no semantic": {"semantic": False},
    "no geometric": {"geometric": False, "standardise": True},
    "linguistic": {"linguistic": True, "lang_width": 16},
    "all standardised": {"linguistic": True, "lang_width": 16, "standardise": True},
    "probe on features": {"depth_probe": "features"},
}
variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def context_tokens(scenes, context, grid_hw, seed=5):
    shape = (scenes, context, grid_hw[0] * grid_hw[1], SMALL.geo_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predicted(model, hidden):
    prediction = model.predict(hidden)
    return {**prediction.features(), "depth": prediction.depth_BVN}


def same(found, expected):
    """float32 against float64, or in another order: at most 3e-5 apart here (measured), of 10."""
    assert set(found) == set(expected)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, atol=2e-4, rtol=0)


@variants
def test_no_weight_is_left_uninitialised(changes):
    with torch.device("meta"):
        model = Spa3RModel(dataclasses.replace(SMALL, **changes))
    model.to_empty(device="cpu")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
    model.init_weights()
    assert [name for name, tensor in tensors.items() if not tensor.isfinite().all()] == []
    assert bool(changes.get("standardise")) == any(name.endswith("_std") for name in tensors)
    latents = model.encode(context_tokens(1, 2, (2, 3)), (2, 3))
    answers = predicted(model, model.decode(latents, *random_cameras(1, 1, (2, 3), PATCH), (2, 3)))
    assert all(x.isfinite().all() for x in answers.values())


@pytest.mark.parametrize(
    ("context", "views", "grid_hw"),
    [(2, 2, (3, 4)), (1, 1, (4, 2)), (1, 2, (1, 6)), (3, 1, (5, 1)), (1, 1, (1, 1))],
    ids=["usual", "one context view", "one row", "one column", "one patch"],
)
def test_batches_of_any_shape_are_the_slow_field_scene_by_scene(context, views, grid_hw):
    model = small_model()
    tokens = context_tokens(2, context, grid_hw)
    pose, K = random_cameras(2, views, grid_hw, PATCH)
    with torch.no_grad():
        latents = model.encode(tokens, grid_hw)
        hidden = model.decode(latents, pose, K, grid_hw)
        answers = predicted(model, hidden)
        for b in range(2):
            slow_latents = slow_field.slow_encode(model, tokens[b], grid_hw)
            same({"latents": latents[b].double()}, {"latents": slow_latents})
            for v in range(views):
                slow_hidden = slow_field.slow_decode(
                    model, latents[b], pose[b, v], K[b, v], grid_hw
                )
                same({"hidden": hidden[b, v].double()}, {"hidden": slow_hidden})
                heads = {**dict(model.heads.items()), "depth": model.depth_prob}
                slow = {k: slow_field.slow_mlp(f, slow_hidden) for k, f in heads.items()}
                slow["depth"] = slow["depth"][:, 0]
                same({name: x[b, v].double() for name, x in answers.items()}, slow)


@variants
def test_every_variant_answers_a_batch_as_its_scenes(changes):
    grid_hw = (2, 3)
    model = small_model(**changes)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.linspace(0.5, 1.5, len(buffer)) - 0.4 * name.endswith("_mean"))
    tokens, (pose, K) = context_tokens(3, 2, grid_hw), random_cameras(3, 2, grid_hw, PATCH)
    latents = model.encode(tokens, grid_hw)
    together = predicted(model, model.decode(latents, pose, K, grid_hw))
    for b in range(3):
        one = slice(b, b + 1)
        single = model.encode(tokens[one], grid_hw)
        torch.testing.assert_close(single, latents[one], atol=1e-5, rtol=1e-5)
        alone = predicted(model, model.decode(single, pose[one], K[one], grid_hw))
        assert set(alone) == set(together)
        for name in alone:
            scale = together[name].abs().max().item()
            torch.testing.assert_close(alone[name], together[name][one], atol=1e-5 * scale, rtol=0)


# --- the world frame ------------------------------------------------------------------------------


def rigid(views, seed):
    """(1, V, 4, 4) rigid transforms and K of a 2 x 3 grid, float64."""
    pose, K = (x.double() for x in random_cameras(1, views, (2, 3), PATCH, seed))
    u, _, vh = torch.linalg.svd(pose[..., :3, :3])
    pose[..., :3, :3] = u @ vh  # a rotation to float64's precision
    return pose, K


def scan():
    """World-from-camera poses, K and depth of five views; the last is the target."""
    pose, K = rigid(5, seed=0)
    shape = (1, 5, 2 * PATCH, 3 * PATCH)
    depth = 1 + torch.rand(shape, generator=torch.Generator().manual_seed(7))
    depth[:, 0, :5] = 0  # not measured
    return pose, K, depth


def answer(scanned, tokens):
    """Latents, and what the field shows at the last view, with the dataset's cameras."""
    world_from_camera, K, depth = scanned
    clip = ClipViews(
        images_BV3HW=torch.zeros(1, 5, 3, *depth.shape[-2:]),
        is_target_BV=(torch.arange(5) == 4)[None],
        depth_BVHW=depth,
        world_from_camera_BV44=world_from_camera,
        K_BV33=K,
    )
    camera_from_world, K, metres_per_unit = dataset_cameras(clip)
    model = small_model()
    latents = model.encode(tokens, (2, 3))
    found = predicted(model, model.decode(latents, camera_from_world[:, -1:], K[:, -1:], (2, 3)))
    return {"latents": latents, "metres_per_unit": metres_per_unit, **found}


def test_the_answer_does_not_know_where_the_dataset_put_its_world():
    pose, K, depth = scan()
    move, _ = rigid(1, seed=9)
    move[..., :3, 3] *= 10
    tokens = context_tokens(1, 4, (2, 3))
    same(answer((move @ pose, K, depth), tokens), answer((pose, K, depth), tokens))


def test_the_order_of_all_views_but_the_first_does_not_matter():
    tokens = context_tokens(1, 4, (2, 3))
    here = answer(scan(), tokens)
    order = torch.tensor([0, 3, 1, 2, 4])
    same(answer([x[:, order] for x in scan()], tokens[:, order[:-1]]), here)
    # View 0 is the world: with another one in front the same target is seen from elsewhere.
    order = torch.tensor([1, 0, 2, 3, 4])
    other = answer([x[:, order] for x in scan()], tokens[:, order[:-1]])
    same({"latents": other["latents"]}, {"latents": here["latents"]})
    assert (other["geo"] - here["geo"]).abs().max() > 0.1


def test_an_identity_camera_leaves_rope_on_half_of_each_head():
    grid_hw, channels, prefix, base = (2, 5), 16, 3, 100.0
    width, height = float(grid_hw[1] * PATCH), float(grid_hw[0] * PATCH)
    K = torch.tensor([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]])
    P, inverse = projections(torch.eye(4)[None, None], K[None, None], grid_hw, PATCH)
    assert torch.equal(P[0, 0], torch.eye(4)) and torch.equal(inverse[0, 0], torch.eye(4))
    position = DecoderPosition(
        image_from_world_S44=P[0],
        world_from_image_S44=inverse[0],
        num_prefix=prefix,
        rope=ray_table(grid_hw, channels // 2, base, CPU),
    )
    x = torch.randn(1, prefix + 10, 2, channels, generator=torch.Generator().manual_seed(8))
    for sign, ours in (
        (-1, position.query(x, slice(0, None))),
        (-1, position.key(x)),
        (-1, position.value(x)),
        (1, position.output(x, slice(0, None))),
    ):
        expected = x.clone()
        for n in range(10):
            where = (sign * (n % 5), sign * (n // 5))  # x on the third quarter, y on the last
            turn = slow_field.turn_matrix(where, channels // 2, base)
            half = x[0, prefix + n, :, channels // 2 :].double()
            expected[0, prefix + n, :, channels // 2 :] = (half @ turn.T).float()
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_the_whole_decoder_runs_in_float64():
    grid_hw, latents = (2, 3), 4
    torch.manual_seed(0)
    decoder = Transformer(32, 2, 2, 2, 2).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    pose, K = rigid(1, seed=0)
    P, inverse = projections(pose, K, grid_hw, PATCH)
    position = DecoderPosition(
        image_from_world_S44=P[0],
        world_from_image_S44=inverse[0],
        num_prefix=2 + latents,
        rope=ray_table(grid_hw, 8, 100.0, CPU, torch.float64),
    )
    x = torch.randn(1, latents + 6, 32, dtype=torch.float64)
    ours = decoder(x, position, slice(latents, None))
    P_44 = slow_field.lifted(K[0, 0], grid_hw, PATCH) @ pose[0, 0]
    maps = slow_field.prope_maps(P_44, grid_hw, 2 + latents, 16, 100.0)
    expected = slow_field.slow_transformer(decoder, x[0], maps)[latents:]
    torch.testing.assert_close(ours[0], expected, atol=1e-10, rtol=1e-10)
