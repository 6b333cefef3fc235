"""The student once more, one token, one head, one scene and one view at a time, in float64.

An oracle: it shares the weights and `prope_matrices` with spa3r/models, and no other code. A
position code is four matrices per token, of queries, keys, values and outputs.

Legend: T tokens, N tokens per view, L latents, H heads, C head channels, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spa3r.models.prope import prope_matrices
from spa3r.models.spa3r import Spa3RModel
from spa3r.models.transformer import Block, Mlp, Transformer

Maps = tuple[Tensor, Tensor, Tensor, Tensor]


def slow_encode(model: Spa3RModel, context_CND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(L, D) latents of one scene."""
    config = model.config
    tokens_TD = linear(model.projection, context_CND.double().flatten(0, 1))
    x_TD = torch.cat((model.query_embed.weight.double(), tokens_TD))
    here = [(0, 0)] * (config.num_registers + config.num_latents)
    rows, columns = grid_hw
    here += [(y + 1, x + 1) for _ in context_CND for y in range(rows) for x in range(columns)]
    channels = config.width // config.num_heads
    turns_TCC = torch.stack([turn_matrix(p, channels, config.rope_base) for p in here])
    still_TCC = torch.eye(channels, dtype=torch.float64).expand_as(turns_TCC)
    maps = (turns_TCC, turns_TCC, still_TCC, still_TCC)
    return slow_transformer(model.encoder, x_TD, maps)[: config.num_latents]


def slow_decode(
    model: Spa3RModel, latents_LD: Tensor, pose_44: Tensor, K_33: Tensor, grid_hw: tuple[int, int]
) -> Tensor:
    """(N, D) hidden tokens of one view."""
    config = model.config
    pose_44, K_33 = pose_44.double(), K_33.double()
    rays_N3 = torch.stack(
        [
            torch.linalg.inv(K_33) @ torch.tensor([x * p, y * p, 1.0], dtype=torch.float64)
            for p in [config.patch_size]
            for y in torch.arange(grid_hw[0]) + 0.5
            for x in torch.arange(grid_hw[1]) + 0.5
        ]
    )
    rays_ND = linear(model.pose_tokenizer, rays_N3 / rays_N3.norm(dim=1, keepdim=True))
    x_TD = torch.cat((latents_LD.double(), rays_ND))
    image_from_world_44 = lifted(K_33, grid_hw, config.patch_size) @ pose_44
    prefix, channels = config.num_registers + len(latents_LD), config.width // config.num_heads
    maps = prope_maps(image_from_world_44, grid_hw, prefix, channels, config.rope_base)
    return slow_transformer(model.decoder, x_TD, maps)[len(latents_LD) :]


def slow_transformer(model: Transformer, x_TD: Tensor, maps: Maps) -> Tensor:
    """Every row of [registers, x] through every block; (T, D) without the registers."""
    x_TD = torch.cat((model.register_tokens[0].double(), x_TD))
    for block in model.blocks:
        assert isinstance(block, Block)
        x_TD = x_TD + slow_attention(block, norm(block.norm1, x_TD), maps)
        x_TD = x_TD + slow_mlp(block.mlp, norm(block.norm2, x_TD))
    return norm(model.norm, x_TD)[model.num_registers :]


def slow_attention(block: Block, x_TD: Tensor, maps: Maps) -> Tensor:
    attention = block.attn
    q_THC, k_THC, v_THC = (
        linear(attention.qkv, x_TD).unflatten(1, (3, -1, maps[0].shape[-1])).unbind(1)
    )
    heads_TC = []
    for head in range(attention.num_heads):
        q_TC, k_TC, v_TC = q_THC[:, head], k_THC[:, head], v_THC[:, head]
        q_TC = rms(q_TC) * attention.q_norm.weight.double()
        k_TC = rms(k_TC) * attention.k_norm.weight.double()
        turned = [
            torch.stack([matrix_CC @ x_C for matrix_CC, x_C in zip(map_TCC, x_TC, strict=True)])
            for map_TCC, x_TC in zip(maps, (q_TC, k_TC, v_TC), strict=False)
        ]
        scores_TT = turned[0] @ turned[1].T / turned[0].shape[1] ** 0.5
        seen_TC = scores_TT.softmax(dim=1) @ turned[2]
        heads_TC.append(torch.einsum("tij,tj->ti", maps[3], seen_TC))
    return linear(attention.proj, torch.cat(heads_TC, dim=1))


def prope_maps(
    image_from_world_44: Tensor, grid_hw: tuple[int, int], prefix: int, channels: int, base: float
) -> Maps:
    """PRoPE of [registers, latents, rays], `prefix` of the former: D^T, D^-1, D^-1, D."""
    is_spatial_T = torch.arange(prefix + grid_hw[0] * grid_hw[1]) >= prefix
    P_1144 = image_from_world_44[None, None]
    D_TCC = prope_matrices(P_1144, grid_hw, channels, base, is_spatial_T)[0]
    inverse_TCC = torch.linalg.inv(D_TCC)
    return D_TCC.mT, inverse_TCC, inverse_TCC, D_TCC


def lifted(K_33: Tensor, grid_hw: tuple[int, int], patch_size: int) -> Tensor:
    """K in units of the image around its middle, as 4 x 4."""
    height, width = grid_hw[0] * patch_size, grid_hw[1] * patch_size
    K_44 = torch.eye(4, dtype=torch.float64)
    K_44[0, 0], K_44[1, 1] = K_33[0, 0] / width, K_33[1, 1] / height
    K_44[0, 2], K_44[1, 2] = K_33[0, 2] / width - 0.5, K_33[1, 2] / height - 0.5
    return K_44


def turn_matrix(position: tuple[int, int], channels: int, base: float) -> Tensor:
    """(C, C) 2-D RoPE: halves by position[0] and position[1], pairs (k, k + F) of each."""
    matrix_CC = torch.zeros(channels, channels, dtype=torch.float64)
    num = channels // 4
    for axis, coordinate in enumerate(position):
        for k in range(num):
            angle = torch.tensor(coordinate * base ** (-k / num), dtype=torch.float64)
            first, second = axis * 2 * num + k, axis * 2 * num + k + num
            matrix_CC[first, first] = matrix_CC[second, second] = angle.cos()
            matrix_CC[first, second], matrix_CC[second, first] = -angle.sin(), angle.sin()
    return matrix_CC


def slow_mlp(mlp: Mlp, x: Tensor) -> Tensor:
    hidden = linear(mlp.fc1, x)
    return linear(mlp.fc2, hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.double().T + layer.bias.double()


def norm(layer: torch.nn.LayerNorm, x_TD: Tensor) -> Tensor:
    return F.layer_norm(x_TD, x_TD.shape[1:], layer.weight.double(), layer.bias.double(), 1e-6)


def rms(x_TC: Tensor) -> Tensor:
    return x_TC / x_TC.square().mean(dim=1, keepdim=True).sqrt()
