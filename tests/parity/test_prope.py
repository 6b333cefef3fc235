"""PRoPE, attention, encoder and decoder against the published code's numbers (prope_small)."""

import pytest
import torch
from torch import Tensor

from spa3r.models.attention import Attention
from spa3r.models.cameras import projections
from spa3r.models.prope import DecoderPosition, prope_attention, prope_matrices
from spa3r.models.rope import EncoderPosition, ray_table, rope_table
from spa3r.models.transformer import Transformer
from tests.parity.golden import Golden, named

NAMES = named("prope")
CPU = torch.device("cpu")


class Case(Golden):
    """A fixture whose variants are replayed through our modules."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.grid_hw = (self.config["patches_y"], self.config["patches_x"])
        self.patch_size = self.config["image_width"] // self.config["patches_x"]
        self.base = self.config["freq_base"]

    def close(self, ours: Tensor, name: str) -> None:
        """As Golden's; we compute some of these in float64."""
        super().close(ours.to(self.tensors[f"outputs/{name}"].dtype), name)

    def matrices(self, variant: str, *, with_K: bool = True) -> Tensor:
        given = self.below(f"inputs/{variant}/")
        K = given["Ks"] if with_K else None
        P, _ = projections(given["viewmats"], K, self.grid_hw, self.patch_size)
        channels = given["q"].shape[-1]
        return prope_matrices(P, self.grid_hw, channels, self.base, given.get("spatial_mask"))

    def decoder_position(self) -> DecoderPosition:
        given, module = self.below("inputs/module/"), self.config["module"]
        P, inverse = projections(given["viewmats"], given["Ks"], self.grid_hw, self.patch_size)
        channels = module["dim"] // module["heads"]
        return DecoderPosition(
            image_from_world_S44=P[:, 0],
            world_from_image_S44=inverse[:, 0],
            num_prefix=int((~given["spatial_mask"]).sum()),
            rope=ray_table(self.grid_hw, channels // 2, self.base, CPU),
        )

    def transformer(self, variant: str) -> Transformer:
        module = self.config["module"]
        registers = module["num_register_tokens"]
        model = Transformer(module["dim"], module["depth"], module["heads"], 4, registers)
        model.load_state_dict(self.below(f"weights/{variant}/"))
        return model


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return Case(request.param)


def variants(case: Case) -> list[str]:
    return sorted({k.split("/")[1] for k in case.tensors if k.startswith("inputs/")})


def test_oracle_attention(case):
    checked = 0
    for variant in variants(case):
        given = case.below(f"inputs/{variant}/")
        if "q" not in given:
            continue
        source = "spa3r" if "spatial_mask" in given else "orig"
        D = case.matrices(variant)
        out = prope_attention(given["q"], given["k"], given["v"], D)
        case.close(out, f"{source}/{variant}/out")
        if source == "orig":
            gta = case.matrices(variant, with_K=False)
            out = prope_attention(given["q"], given["k"], given["v"], gta)
            case.close(out, f"{source}/{variant}/out_Ks_none_gta")
        checked += 1
    assert checked


def test_oracle_transforms(case):
    for variant in variants(case):
        given = case.below(f"inputs/{variant}/")
        if "q" not in given:
            continue
        source = "spa3r" if "spatial_mask" in given else "orig"
        D = case.matrices(variant)[:, None]
        inverse = torch.linalg.inv(D)
        applied = {
            "apply_q": D.mT @ given["q"].double()[..., None],
            "apply_kv_k": inverse @ given["k"].double()[..., None],
            "apply_kv_v": inverse @ given["v"].double()[..., None],
            "apply_o_of_v": D @ given["v"].double()[..., None],
        }
        for name, ours in applied.items():
            if f"outputs/{source}/{variant}/{name}" in case.tensors:
                case.close(ours[..., 0], f"{source}/{variant}/{name}")


def test_attention_module(case):
    module = case.config["module"]
    attention = Attention(module["dim"], module["heads"])
    attention.load_state_dict(case.below("weights/attention/"))
    case.close(attention(case["inputs/module/x"], case.decoder_position()), "attention/out")


def test_encoder(case):
    module = case.config["module"]
    x, positions = case["inputs/encoder/x"], case["inputs/encoder/pos"]
    # The fixture's positions are counted from the patch grid (queries at -1), registers come later.
    positions = positions + 1
    registers = torch.zeros(module["num_register_tokens"], 2, dtype=positions.dtype)
    channels = module["dim"] // module["heads"]
    outputs = []
    for x_TD, positions_T2 in zip(x, positions, strict=True):
        table = rope_table(torch.cat((registers, positions_T2)), channels, case.base)
        encoder = case.transformer("encoder")
        outputs.append(encoder(x_TD[None], EncoderPosition(rope=table), slice(0, None)))
    case.close(torch.cat(outputs), "encoder/out")


def test_decoder(case):
    decoder, position = case.transformer("decoder"), case.decoder_position()
    x = case["inputs/decoder/x"]
    case.close(decoder(x, position, slice(0, None)), "decoder/out")
    registers = decoder.register_tokens.expand(len(x), -1, -1)
    first = decoder.blocks[0](torch.cat((registers, x), dim=1), position)
    case.close(first, "decoder/block0")


def test_reading_a_part_equals_cutting_the_whole(case):
    decoder, position = case.transformer("decoder"), case.decoder_position()
    x = case["inputs/decoder/x"]
    queries = case.config["module"]["num_queries"]
    whole = decoder(x, position, slice(0, None))
    for part in (slice(queries, None), slice(0, queries), slice(2, queries + 3)):
        torch.testing.assert_close(
            decoder(x, position, part), whole[:, part], **case.spec["tolerance"]
        )
