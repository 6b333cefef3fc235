"""DINOv3 through Transformers against Meta's own code (fixtures dinov3_*)."""

import pytest
import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.errors import WeightsError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dinov3 import (
    SIDE,
    VITL16,
    DinoV3Teacher,
    from_meta,
    load_dinov3,
    to_meta,
)
from spa3r.teachers.frame_teacher import squash
from tests.parity.golden import Golden, named, read_keymap, variants

NAMES = named("dinov3")
SIZES = variants(NAMES, "inputs/pixel_values/")


def teacher(golden: Golden, naming: str = "hf") -> DinoV3Teacher:
    model = DINOv3ViTModel(DINOv3ViTConfig(**golden.config["hf"]))
    load_dinov3(model, golden.below(f"weights/{naming}/"))
    return DinoV3Teacher(model, uri="golden")


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_network(name: str, size: str) -> None:
    golden = Golden(name)
    with torch.no_grad():
        out = teacher(golden).model(
            golden[f"inputs/pixel_values/{size}"], output_hidden_states=True
        )
    hidden = out.last_hidden_state
    golden.close(hidden, f"{size}/hf_last_hidden_state")
    states = golden.below(f"outputs/{size}/hf_hidden_states/")
    assert len(states) == len(out.hidden_states)
    for i in states:
        golden.close(out.hidden_states[int(i)], f"{size}/hf_hidden_states/{i}")
    prefix = 1 + golden.config["hf"]["num_register_tokens"]
    golden.close(hidden[:, 0], f"{size}/x_norm_clstoken")
    golden.close(hidden[:, 1:prefix], f"{size}/x_storage_tokens")
    golden.close(hidden[:, prefix:], f"{size}/x_norm_patchtokens")


@pytest.mark.parametrize(("name", "size"), variants(NAMES, "inputs/extract/"))
def test_teacher(name: str, size: str) -> None:
    golden = Golden(name)
    (images,) = golden.below(f"inputs/extract/{size}/").values()
    images = images.float()
    height, width = images.shape[-2:]
    corner = golden[f"outputs/extract/{size}/resized_224_first_view_corner_32x32"]
    ours = squash(images[:, 0], SIDE)[..., : corner.shape[-2], : corner.shape[-1]]
    golden.close(ours, f"extract/{size}/resized_224_first_view_corner_32x32")
    views = ClipViews(images_BV3HW=images, is_target_BV=torch.zeros(images.shape[:2]).bool())
    features = teacher(golden)(views, (height // 14, width // 14))
    golden.close(features, f"extract/{size}/features")


@pytest.mark.parametrize("name", NAMES)
def test_namings_agree(name: str) -> None:
    golden = Golden(name)
    config = golden.config["meta"]
    hf, meta = golden.below("weights/hf/"), golden.below("weights/meta_hub/")
    published = {DinoV3Teacher.published_name(k): v for k, v in hf.items()}
    equal(from_meta(meta), published)
    back = to_meta(hf, head_width=config["embed_dim"] // config["num_heads"])
    for key in meta:
        if key.endswith("qkv.bias"):  # the masked third is gone
            back[key] += meta[key] * (1 - meta[f"{key}_mask"])
    torch.testing.assert_close(back.pop("rope_embed.periods"), meta.pop("rope_embed.periods"))
    equal(back, meta)
    theirs, ours = teacher(golden, "meta_hub"), teacher(golden)
    assert theirs.hash == ours.hash
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(
            theirs.model(pixels).last_hidden_state, ours.model(pixels).last_hidden_state
        )


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("naming", ["hf_keys_on_disk", "meta_keys"])
def test_names_and_shapes_equal_the_published_file(naming: str) -> None:
    keymap = read_keymap("dinov3_vitl16")
    published = {key: torch.empty(shape, device="meta") for key, shape, _ in keymap[naming]}
    with torch.device("meta"):
        model = DINOv3ViTModel(DINOv3ViTConfig.from_dict(VITL16))
    load_dinov3(model, published)  # raises WeightsError naming every misfit
    # The last key of every kind of name is missed by its own name.
    for key in {"".join(c for c in key if not c.isdigit()): key for key in published}.values():
        if not key.endswith("bias_mask"):  # its numbers decide
            with pytest.raises(WeightsError, match=f"1 tensors .*: missing {key};"):
                load_dinov3(model, {k: v for k, v in published.items() if k != key})


def test_the_key_map_is_what_from_meta_does() -> None:
    keymap = read_keymap("dinov3_vitl16")
    shapes = {key: torch.empty(shape, device="meta") for key, shape, _ in keymap["meta_keys"]}
    mapped = {theirs for _, theirs, _ in keymap["mapping_meta_to_hf"] if theirs is not None}
    assert from_meta(shapes).keys() == mapped
    for meta, theirs, how in keymap["mapping_meta_to_hf"]:
        assert theirs in from_meta({meta: shapes[meta]}) or theirs is None, (meta, how)
