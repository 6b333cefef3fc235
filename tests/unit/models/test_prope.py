"""PRoPE: the decoder's fast path against the per-token oracle, and the code's invariances."""

import pytest
import torch
from torch.nn import functional as F

from spa3r.models.cameras import projections
from spa3r.models.prope import DecoderPosition, prope_attention, prope_matrices
from spa3r.models.rope import ray_table
from tests.unit.models.scenes import random_cameras

BASE = 100.0
CPU = torch.device("cpu")


def fast_attention(q, k, v, position, rows=slice(0, None)):
    """What Attention does between its projections. Inputs (S, H, T, C)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    q = position.query(q[:, rows], rows)
    k, v = position.key(k), position.value(v)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return position.output(out.transpose(1, 2), rows).transpose(1, 2)


def one_camera_case(sequences, heads, prefix, grid_hw, channels, patch_size=14):
    pose, K = random_cameras(sequences, 1, grid_hw, patch_size)
    P, inverse = projections(pose, K, grid_hw, patch_size)
    position = DecoderPosition(
        image_from_world_S44=P[:, 0],
        world_from_image_S44=inverse[:, 0],
        num_prefix=prefix,
        rope=ray_table(grid_hw, channels // 2, BASE, CPU),
    )
    is_spatial = torch.arange(prefix + grid_hw[0] * grid_hw[1]) >= prefix
    D = prope_matrices(P, grid_hw, channels, BASE, is_spatial)
    generator = torch.Generator().manual_seed(1)
    shape = (3, sequences, heads, len(is_spatial), channels)
    qkv = torch.randn(shape, generator=generator).requires_grad_()
    return position, D, qkv


@pytest.mark.parametrize(
    ("sequences", "heads", "prefix", "grid_hw", "channels"),
    [(2, 3, 5, (4, 5), 16), (1, 1, 1, (1, 1), 8), (3, 2, 9, (2, 7), 32), (1, 2, 0, (3, 3), 24)],
)
@pytest.mark.parametrize("read", ["all", "rays", "tail of the rays", "part of the prefix"])
def test_fast_path_equals_oracle_forward_and_backward(
    sequences, heads, prefix, grid_hw, channels, read
):
    position, D, qkv = one_camera_case(sequences, heads, prefix, grid_hw, channels)
    tokens = qkv.shape[3]
    rows = {
        "all": slice(0, None),
        "rays": slice(prefix, None),
        "tail of the rays": slice(min(prefix + 2, tokens - 1), None),
        "part of the prefix": slice(prefix // 2, max(prefix - 1, prefix // 2 + 1)),
    }[read]
    q, k, v = qkv
    ours = fast_attention(q, k, v, position, rows)
    theirs = prope_attention(q, k, v, D)[:, :, rows]
    # float32 against float64; the entries of P and 1/P reach about ten.
    torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)
    weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2))
    (ours_grad,) = torch.autograd.grad((ours * weight).sum(), qkv)
    (theirs_grad,) = torch.autograd.grad((theirs * weight).sum(), qkv)
    scale = theirs_grad.abs().max().item()
    torch.testing.assert_close(ours_grad, theirs_grad, atol=2e-5 * scale, rtol=1e-4)


def small_case():
    """q, k, v (S, H, T, C), a pose and K that ask for gradients, all float64: 2 tokens, 4 rays."""
    pose, K = (x.double() for x in random_cameras(1, 1, (2, 2), 14))
    u, _, vh = torch.linalg.svd(pose[..., :3, :3])
    pose[..., :3, :3] = u @ vh  # a rotation to float64's precision
    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 1, 2, 6, 8, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (q, k, v, pose, K)]


def small_fast(q, k, v, pose, K):
    P, inverse = projections(pose, K, (2, 2), 14)
    position = DecoderPosition(
        image_from_world_S44=P[:, 0],
        world_from_image_S44=inverse[:, 0],
        num_prefix=2,
        rope=ray_table((2, 2), 4, BASE, CPU, torch.float64),
    )
    return fast_attention(q, k, v, position)


def small_oracle(q, k, v, pose, K):
    P, _ = projections(pose, K, (2, 2), 14)
    return prope_attention(q, k, v, prope_matrices(P, (2, 2), 8, BASE, torch.arange(6) >= 2))


@pytest.mark.parametrize("attention", [small_fast, small_oracle])
def test_gradients_of_tokens_and_cameras_are_the_finite_differences(attention):
    assert torch.autograd.gradcheck(attention, small_case())


def test_in_float64_both_forms_agree_to_its_precision():
    case = small_case()
    fast, oracle = small_fast(*case), small_oracle(*case)
    assert fast.dtype == torch.float64
    torch.testing.assert_close(fast, oracle, atol=1e-12, rtol=1e-12)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2)).double()
    for ours, theirs in zip(
        torch.autograd.grad((fast * weight).sum(), case[:3]),
        torch.autograd.grad((oracle * weight).sum(), case[:3]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_several_cameras_do_not_see_the_choice_of_world_frame():
    grid_hw, channels, views = (2, 3), 16, 3
    pose, K = random_cameras(1, views, grid_hw, 14)
    world_change, _ = random_cameras(1, 1, grid_hw, 14, seed=9)
    q, k, v = torch.randn(3, 1, 2, views * 6, channels, generator=torch.Generator().manual_seed(3))
    outputs = []
    for poses in (pose, pose @ world_change):
        P, _ = projections(poses, K, grid_hw, 14)
        outputs.append(prope_attention(q, k, v, prope_matrices(P, grid_hw, channels, BASE)))
    torch.testing.assert_close(*outputs, atol=2e-5, rtol=1e-5)


def test_latents_make_the_world_frame_matter():
    position, _, (q, k, v) = one_camera_case(1, 2, 4, (2, 3), 16)
    moved, _ = random_cameras(1, 1, (2, 3), 14, seed=9)
    other = DecoderPosition(
        image_from_world_S44=position.image_from_world_S44 @ moved[:, 0],
        world_from_image_S44=torch.linalg.inv(moved[:, 0]) @ position.world_from_image_S44,
        num_prefix=position.num_prefix,
        rope=position.rope,
    )
    difference = fast_attention(q, k, v, position) - fast_attention(q, k, v, other)
    assert difference.abs().max() > 0.1


def test_identity_camera_leaves_rope_on_half_of_the_head():
    grid_hw, channels = (3, 4), 16
    P = torch.eye(4).expand(1, 1, 4, 4)
    D = prope_matrices(P, grid_hw, channels, BASE)[0]
    half = channels // 2
    assert torch.equal(D[:, :half, :half], torch.eye(half).double().expand(12, half, half))
    assert not D[:, :half, half:].any() and not D[:, half:, :half].any()
    rope = D[:, half:, half:]
    torch.testing.assert_close(rope @ rope.mT, torch.eye(half).double().expand_as(rope))
    # A query and a key one column apart meet the same way wherever they are.
    relative = rope[1:4] @ rope[:3].mT
    torch.testing.assert_close(relative, relative[:1].expand_as(relative))
    # And the tables turn as the matrices do.
    x = torch.randn(1, 12, 2, half, generator=torch.Generator().manual_seed(4))
    turned = ray_table(grid_hw, half, BASE, CPU).rotate(x)
    expected = (rope[:, None] @ x.double()[..., None])[..., 0]
    torch.testing.assert_close(turned.double(), expected, atol=1e-6, rtol=1e-6)


def test_rope_table_serves_training_after_inference_mode():
    ray_table.cache_clear()
    with torch.inference_mode():
        ray_table((2, 2), 8, BASE, CPU)
    x = torch.randn(1, 4, 1, 8, requires_grad=True)
    table = ray_table((2, 2), 8, BASE, CPU)
    table.rotate(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps lengths
    torch.testing.assert_close(table.unrotate(table.rotate(x)), x)
