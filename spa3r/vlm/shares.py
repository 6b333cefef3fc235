"""Which views an answer was drawn from.

For fusion by cross-attention the share of view v is a product of three attentions:

    share(v) = sum over image tokens i, geometry tokens l of  a(i) g(i, l) e(l, v)

* a(i): how much the answer's tokens look at image token i: mean over the decoder's layers, its
  heads and the positions from which the answer was written; sums to 1 over image tokens;
* g(i, l): how much the adapter's image token i looks at geometry token l (mean over heads); rows
  sum to 1 (what lies on the key of the metric scale is left out);
* e(l, v): how much latent l looked at the patches of view v in the encoder, summed over its blocks
  and heads; rows sum to 1. A teacher's token belongs to one view: there e is 0 or 1.

Without geometry, and for other fusions, share(v) is the sum of a(i) over the tokens of view v.
Shares sum to 1. They are a description of attention, not a proof of cause.

Legend: T tokens of the prompt, A tokens of the answer, n image tokens of all views, V views,
N geometry tokens, L latents, S scenes (1).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spa3r.models.precision import at_least_float32
from spa3r.vision_input import SceneViews, to_clip_views
from spa3r.vlm.adapter import CrossAttentionAdapter
from spa3r.vlm.batch import Geometry, VlmBatch

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder
    from spa3r.vlm.model import Spa3VlmModel
    from spa3r.vlm.spa3_vlm import Request, Spa3VLM


@torch.no_grad()
def view_shares(
    vlm: "Spa3VLM", request: "Request", text: str, latent_LV: Tensor | None = None
) -> tuple[float, ...] | None:
    """Share of each view in an answer; sums to 1. `latent_LV`: of `latent_shares`, where it is
    known; else the teacher looks at the views once more.

    The prompt is read once more, as for the answer, then the answer's tokens alone with attention
    weights written out, so that memory grows with A * (T + A), not with T * T.

    Returns:
        None for a request without views to look at, or an answer without a token.

    Raises:
        As `Spa3VLM.ask`.
    """
    answer = vlm.processor.chat.text_ids(text)
    if not isinstance(request.views, SceneViews) or not answer:
        return None
    vlm.check(request, max_new_tokens=len(answer))
    sample = vlm.sample(request)
    batch = vlm.processor.collate([sample], pad="left").to(vlm.device)
    looked_n = answer_attention(vlm.model, batch, answer).double().cpu()
    lengths = vlm.processor.image_lengths(sample.image_grid_thw_I3) or []
    view_n = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    shares_nV = nn.functional.one_hot(view_n, len(lengths)).double()
    adapter = getattr(vlm.model.fusion, "adapter", None)
    if sample.geometry is not None and isinstance(adapter, CrossAttentionAdapter):
        seen_NV = latent_LV
        if seen_NV is None:
            seen_NV = _geometry_shares(vlm, request.views, sample.geometry)
        shares_nV = _adapter_attention(vlm.model, adapter, batch, sample.geometry) @ seen_NV
    share_V = looked_n @ shares_nV
    return tuple((share_V / share_V.sum()).tolist())


def answer_attention(model: "Spa3VlmModel", batch: VlmBatch, answer: list[int]) -> Tensor:
    """(n,) float32, attention of an answer on the image tokens of its prompt; sums to 1.

    Args:
        batch: one conversation, up to where the assistant is to speak.
        answer: its tokens.
    """
    base: Any = model.base
    inputs = model.inputs(batch)
    length = batch.input_ids_BT.shape[1]
    cache = base.hf(**inputs, use_cache=True, logits_to_keep=1).past_key_values
    # An answer's token is written from the position before it, the first from the prompt's last.
    cache.crop(-1)
    ids = torch.tensor([[int(batch.input_ids_BT[0, -1]), *answer[:-1]]], device=base.device)
    first = length - 1 + int(base.hf.model.rope_deltas.reshape(-1)[0])
    position_ids = first + torch.arange(len(answer), device=base.device).expand(3, 1, -1)
    is_image_n = batch.is_image_BT[0].bool()
    looked_n = torch.zeros(int(is_image_n.sum()), device=base.device)

    def add(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        weights_1hAT = output[1][..., :length]
        looked_n.add_(weights_1hAT.float().mean(dim=(0, 1, 2))[is_image_n])

    with _eager(base.language_model), _hooked(base.layers, "self_attn", add):
        base.hf.model.language_model(
            inputs_embeds=base.hf.get_input_embeddings()(ids),
            position_ids=position_ids,
            attention_mask=torch.ones(1, length - 1 + len(answer), device=base.device).long(),
            past_key_values=cache,
            use_cache=True,
        )
    return looked_n / looked_n.sum()


def latent_shares(encoder: "Spa3REncoder", views: SceneViews) -> Tensor:
    """(L, V) float64, how much each latent looked at each view while it was made; rows sum to 1.

    Raises:
        TeacherError: the teacher is missing, another one, or needs depth and cameras.
    """
    config = encoder.model.config
    own = slice(config.num_registers, config.num_registers + config.num_latents)
    grid_hw = encoder.grid_of(views)
    num_views = len(views.rgb_VHW3)
    total_LV = torch.zeros(config.num_latents, num_views, dtype=torch.float64)

    def add(attention: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal total_LV
        weights_LT = _row_attention(attention, args[0], args[1], own)
        patches_LVN = weights_LT[:, own.stop :].unflatten(1, (num_views, -1))
        total_LV += patches_LVN.sum(dim=2).double().cpu()

    clip = to_clip_views([views], encoder.device)
    seen = encoder.teacher.context(clip, surface=False)
    stored = getattr(torch, encoder.card.teacher.dtype)
    bfloat16 = encoder.precision == "bfloat16"
    blocks = encoder.model.encoder.blocks
    handles = [block.attn.register_forward_pre_hook(add) for block in blocks]  # type: ignore[operator, union-attr]
    try:
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=bfloat16):
            encoder.model.encode(seen.context_BCND.to(stored), grid_hw)
    finally:
        for handle in handles:
            handle.remove()
    return total_LV / total_LV.sum(dim=1, keepdim=True)


def _row_attention(attention: Any, x_STD: Tensor, position: Any, rows: slice) -> Tensor:
    """(R, T) float32, weights of some rows of the student's attention, summed over heads; one head
    after another, so that memory stays R * T."""
    with torch.autocast(x_STD.device.type, enabled=False):
        q_STD, k_STD, _ = attention.qkv(at_least_float32(x_STD)).chunk(3, dim=-1)
        q_SRHC = attention.q_norm(q_STD[:, rows].unflatten(-1, (attention.num_heads, -1)))
        k_STHC = attention.k_norm(k_STD.unflatten(-1, (attention.num_heads, -1)))
        if position is not None:
            q_SRHC, k_STHC = position.query(q_SRHC, rows), position.key(k_STHC)
        scale = q_SRHC.shape[-1] ** -0.5
        sum_RT = q_SRHC.new_zeros(q_SRHC.shape[1], k_STHC.shape[1])
        for q_RC, k_TC in zip(q_SRHC[0].unbind(1), k_STHC[0].unbind(1), strict=True):
            sum_RT += (q_RC @ k_TC.T * scale).softmax(dim=-1)
        return sum_RT


def _geometry_shares(vlm: "Spa3VLM", views: SceneViews, geometry: Geometry) -> Tensor:
    """(N, V) float64: which views a geometry token is of."""
    if vlm.card.vlm.fusion.source == "latents":
        assert vlm.encoder is not None  # a model with geometry has one
        return latent_shares(vlm.encoder, views)
    per_view = len(geometry.tokens[0]) // geometry.views
    return torch.eye(geometry.views, dtype=torch.float64).repeat_interleave(per_view, dim=0)


def _adapter_attention(
    model: "Spa3VlmModel", adapter: CrossAttentionAdapter, batch: VlmBatch, geometry: Geometry
) -> Tensor:
    """(n, N) float64, rows sum to 1."""
    tokens = batch.image_tokens
    if tokens is None:
        assert batch.pixel_values_PC is not None and batch.image_grid_thw_I3 is not None
        tokens = model.image_tokens(batch.pixel_values_PC, batch.image_grid_thw_I3)
    tokens_nH = torch.cat(tokens)[:, : model.base.hidden_size]
    scene = geometry.to(tokens_nH.device)
    weights_nN = adapter.attention(tokens_nH, scene.tokens[0], scene.log_scale).double().cpu()
    return weights_nN / weights_nN.sum(dim=1, keepdim=True)


@contextmanager
def _eager(language_model: Any) -> Iterator[None]:
    """Attention that writes its weights out, for the while."""
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        language_model.set_attn_implementation(before)


@contextmanager
def _hooked(layers: Any, name: str, hook: Callable[..., None]) -> Iterator[None]:
    """A forward hook on one part of every layer, for the while."""
    handles = [getattr(layer, name).register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
