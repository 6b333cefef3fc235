"""Which views an answer was drawn from: each factor of the formula against its own definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spa3r.instructions import Turn
from spa3r.tune_config import FusionConfig
from spa3r.vision_input import to_clip_views
from spa3r.vlm.processor import ImageFeatures
from spa3r.vlm.shares import answer_attention, latent_shares, view_shares
from spa3r.vlm.spa3_vlm import Request, Spa3VLM
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import tiny_config, tiny_vlm

TEXT = "4 chairs"


@pytest.fixture(scope="module")
def vlm() -> Spa3VLM:
    return tiny_vlm(stir=True)


def asked(vlm: Spa3VLM, **changes: np.ndarray) -> Request:
    views = vlm.views(**{**scan_arrays(views=3), **changes})
    return Request(turns=(Turn(role="user", text="How many?"),), views=views)


def moved() -> np.ndarray:
    """Poses with the last camera turned round: it looks away from the wall."""
    poses = scan_arrays(views=3)["world_from_camera"].copy()
    poses[2, :3, :3] = np.diag([-1.0, 1.0, -1.0])
    return poses


@pytest.mark.parametrize("kind", ["cross_attention", "append", "add", "deep_stack", "none"])
def test_shares_sum_to_one(kind: str):
    source = "teacher" if kind in ("add", "deep_stack") else "latents"
    config = tiny_config(fusion=FusionConfig(kind=kind, source=source))  # type: ignore[arg-type]
    vlm = tiny_vlm(config=config, stir=True)
    shares = vlm.view_shares(asked(vlm), TEXT)
    assert shares is not None and len(shares) == 3 and min(shares) > 0
    assert sum(shares) == pytest.approx(1, abs=1e-9)


def test_the_answers_attention_is_that_of_a_whole_eager_forward(vlm: Spa3VLM):
    request = asked(vlm)
    ids = vlm.processor.chat.text_ids(TEXT)
    batch = vlm.processor.collate([vlm.sample(request)], pad="left")
    whole = vlm.processor.collate([vlm.sample(request, answer=TEXT)])
    length = batch.input_ids_BT.shape[1]
    assert whole.input_ids_BT[0, length : length + len(ids)].tolist() == ids
    hf = vlm.model.base.hf  # type: ignore[attr-defined]
    before = hf.config.text_config._attn_implementation
    with torch.no_grad():
        found_n = answer_attention(vlm.model, batch, ids)
    assert hf.config.text_config._attn_implementation == before != "eager"
    hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = hf(**vlm.model.inputs(whole), output_attentions=True).attentions
    finally:
        hf.set_attn_implementation(before)
    # written from the position before each token of the answer
    rows = torch.stack(maps)[:, 0].mean(dim=(0, 1))[length - 1 : length - 1 + len(ids)]
    expected_n = rows.mean(dim=0)[whole.is_image_BT[0].bool()]
    assert torch.allclose(found_n, expected_n / expected_n.sum(), atol=1e-6)


def test_the_encoders_attention_is_that_of_its_blocks(vlm: Spa3VLM):
    """Against softmax of the whole sequence, worked out from what the kernel is given."""
    encoder, views = vlm.encoder, asked(vlm).views
    assert encoder is not None and not isinstance(views, ImageFeatures) and views is not None
    seen: list[torch.Tensor] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(q_SHRC, k_SHTC, v_SHTC):
        seen.append((q_SHRC @ k_SHTC.mT / q_SHRC.shape[-1] ** 0.5).softmax(dim=-1)[0].sum(dim=0))
        return kernel(q_SHRC, k_SHTC, v_SHTC)

    context = encoder.teacher.context(to_clip_views([views]), surface=False).context_BCND
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        encoder.model.encode(context.to(getattr(torch, encoder.card.teacher.dtype)), (3, 4))
    config = encoder.model.config
    first, last = config.num_registers, config.num_registers + config.num_latents
    rows = [
        w if len(w) == config.num_latents else w[first:last] for w in seen
    ]  # the last: its rows
    mass_LV = sum(row[:, last:].unflatten(1, (3, -1)).sum(dim=2) for row in rows)
    assert isinstance(mass_LV, torch.Tensor) and len(rows) == config.encoder_layers
    with torch.no_grad():
        found_LV = latent_shares(encoder, views)
    assert torch.allclose(found_LV, (mass_LV / mass_LV.sum(1, keepdim=True)).double(), atol=1e-5)


def test_an_adapter_that_looks_at_one_latent_gives_that_latents_views(
    vlm: Spa3VLM, monkeypatch: pytest.MonkeyPatch
):
    adapter = vlm.model.fusion.adapter
    latent = 5

    def attention(tokens_nH, geometry_ND, log_scale=None):
        weights = torch.zeros(len(tokens_nH), len(geometry_ND))
        weights[:, latent] = 0.3  # the rest lies on the scale's key, which is left out
        return weights

    monkeypatch.setattr(adapter, "attention", attention)
    encoder = vlm.encoder
    assert encoder is not None
    found = {}
    for name, poses in (("still", scan_arrays(views=3)["world_from_camera"]), ("moved", moved())):
        request = asked(vlm, world_from_camera=poses)
        found[name] = vlm.view_shares(request, TEXT)
        with torch.no_grad():
            expected = latent_shares(encoder, request.views)[latent]  # type: ignore[arg-type]
        assert found[name] == pytest.approx(expected.tolist(), abs=1e-9)
    assert abs(found["still"][2] - found["moved"][2]) > 1e-3  # the view that moved


def test_without_geometry_the_answer_looks_at_image_tokens(vlm: Spa3VLM):
    request = replace(asked(vlm), use_geometry=False)
    ids = vlm.processor.chat.text_ids(TEXT)
    batch = vlm.processor.collate([vlm.sample(request)], pad="left")
    with torch.no_grad():
        looked_n = answer_attention(vlm.model, batch, ids)
    expected = looked_n.unflatten(0, (3, -1)).sum(dim=1)
    assert view_shares(vlm, request, TEXT) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_teachers_token_belongs_to_its_view(monkeypatch: pytest.MonkeyPatch):
    fusion = FusionConfig(kind="cross_attention", source="teacher")
    vlm = tiny_vlm(config=tiny_config(fusion=fusion), stir=True)

    def attention(tokens_nH, geometry_ND, log_scale=None):
        weights = torch.zeros(len(tokens_nH), len(geometry_ND))
        weights[:, 12:24] = 1 / 12  # patches of the second view
        return weights

    monkeypatch.setattr(vlm.model.fusion.adapter, "attention", attention)
    assert vlm.view_shares(asked(vlm), TEXT) == pytest.approx((0, 1, 0))


def test_nothing_to_share(vlm: Spa3VLM):
    request = asked(vlm)
    assert vlm.view_shares(request, "") is None
    assert vlm.view_shares(replace(request, views=None), TEXT) is None


def test_looking_changes_nothing(vlm: Spa3VLM):
    request = asked(vlm)
    before = vlm.answer_many([request], max_new_tokens=6)[0].text
    vlm.view_shares(request, TEXT)
    assert vlm.answer_many([request], max_new_tokens=6)[0].text == before
