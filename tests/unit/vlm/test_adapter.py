"""The adapter against a slow attention, its start, its scale key, the release's files."""

import math

import pytest
import torch
from safetensors.torch import save_file

from spa3r import storage
from spa3r.convert.places import ADAPTER_FORMAT
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.vlm.adapter import CrossAttentionAdapter, load_released, scale_features

HIDDEN, HEADS, WIDTH = 32, 4, 12
FORMS = ("paper", "release")


def adapter(**options) -> CrossAttentionAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CrossAttentionAdapter(HIDDEN, HEADS, WIDTH, **options)


def drawn(made: CrossAttentionAdapter) -> CrossAttentionAdapter:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
    return made


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_nothing_changes_bit_for_bit(form, dtype):
    image_nH = tokens(7, HIDDEN).to(dtype)
    for weights in (torch.float32, dtype):
        fused_nH = adapter(form=form).to(weights)(image_nH, tokens(5, WIDTH).half())
        assert fused_nH.dtype == dtype
        assert torch.equal(fused_nH, image_nH)


@pytest.mark.parametrize("form", FORMS)
def test_against_a_slow_oracle(form):
    made = drawn(adapter(form=form)).double()
    image_nH, latents_ND = tokens(7, HIDDEN).double(), tokens(5, WIDTH).double()
    cross, size = made.geom_cross_attention, HIDDEN // HEADS
    keys_NH = made.geometry_projector(latents_ND)
    found_nH = torch.zeros_like(image_nH)
    shares_nN = torch.zeros(7, 5).double()
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        for i in range(7):
            q = cross.q_norm(cross.q_proj(image_nH[i])[own])
            k_NC = cross.k_norm(cross.k_proj(keys_NH)[:, own])
            weights_N = (k_NC @ q / math.sqrt(size)).softmax(0)
            found_nH[i, own] = weights_N @ cross.v_proj(keys_NH)[:, own]
            shares_nN[i] += weights_N / HEADS
    found_nH = cross.proj(found_nH)
    if form == "release":
        normed_nH = made.ln(found_nH)
        change_nH = made.geometry_adaptor(normed_nH) * made.geometry_gate(normed_nH)
    else:
        change_nH = made.geometry_adaptor(found_nH)
    torch.testing.assert_close(made(image_nH, latents_ND), image_nH + change_nH)
    torch.testing.assert_close(
        made.attention(image_nH, latents_ND).double(), shares_nN, atol=1e-6, rtol=1e-5
    )


def test_the_scale_is_one_more_key_where_it_is_known():
    made = drawn(adapter(metric_scale=True))
    image_nH, latents_ND = tokens(7, HIDDEN), tokens(5, WIDTH)
    unknown, small, large = (made(image_nH, latents_ND, scale) for scale in (None, 0.0, 1.5))
    state = {k: v for k, v in made.state_dict().items() if "scale" not in k}
    without = adapter()
    without.load_state_dict(state)
    assert torch.equal(unknown, without(image_nH, latents_ND))
    assert (small - unknown).abs().max() > 1e-3
    assert (large - small).abs().max() > 1e-3
    torch.testing.assert_close(made.attention(image_nH, latents_ND).sum(1), torch.ones(7))
    shares_nN = made.attention(image_nH, latents_ND, 1.5)
    assert shares_nN.shape == (7, 5)
    assert bool((shares_nN.sum(1) < 1).all())


def test_scales_of_rooms_are_told_apart():
    """Their logarithms lie between 0.6 and 1: a step of 0.02 (2 %) must be no rounding matter."""
    assert scale_features(0.0) == [0.0, 1.0] * 5
    assert scale_features(0.5)[2:6] == pytest.approx(
        [math.sin(1), math.cos(1), math.sin(2), math.cos(2)]
    )
    seen = torch.tensor([scale_features(0.6 + 0.02 * i) for i in range(21)])
    steps = (seen[1:] - seen[:-1]).norm(dim=1)
    assert steps.min() > 0.3  # of features of norm 5 ** 0.5; the logarithm itself: 0.02
    assert torch.cdist(seen, seen).fill_diagonal_(9).min() == pytest.approx(float(steps.min()))


def test_the_paper_s_form_has_neither_norm_nor_gate():
    paper, release = (set(adapter(form=form).state_dict()) for form in FORMS)
    extra = {name.split(".")[0] for name in release - paper}
    assert paper < release
    assert extra == {"ln", "geometry_gate"}


def test_parameters_at_3b():
    with torch.device("meta"):
        made = CrossAttentionAdapter(2048, 16, 768, form="release")
    assert sum(p.numel() for p in made.parameters()) == 28_857_344


def test_a_width_that_heads_do_not_divide():
    with pytest.raises(ConfigError, match="width 30 is not a multiple"):
        CrossAttentionAdapter(30, HEADS, WIDTH)


def released(folder, state, form=ADAPTER_FORMAT) -> str:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    storage.write_json(folder / "config.json", {"format": form})
    return str(folder)


def test_a_converted_adapter_loads_strictly(tmp_path):
    trained = drawn(adapter(form="release"))
    state = trained.state_dict()
    made = adapter(form="release")
    load_released(made, released(tmp_path / "whole", state))
    assert all(torch.equal(made.state_dict()[name], x) for name, x in state.items())
    less = {name: x for name, x in state.items() if name != "ln.bias"}
    with pytest.raises(WeightsError, match=r"missing ln\.bias"):
        load_released(made, released(tmp_path / "less", less))
    with pytest.raises(WeightsError, match="4 tensors do not fit"):
        load_released(adapter(), str(tmp_path / "whole"))  # the paper's form has no gate


def test_folders_that_are_no_adapter(tmp_path):
    with pytest.raises(WeightsError, match="format 'spa3r-encoder-1', not 'spa3r-adapter-1'"):
        load_released(adapter(), released(tmp_path / "encoder", {}, "spa3r-encoder-1"))
    with pytest.raises(TeacherError, match="no such file or folder"):
        load_released(adapter(), tmp_path / "nowhere")
