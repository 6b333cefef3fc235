"""DINOv3 through Transformers against Meta's own code (fixtures dinov3_*)."""

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.teachers.base import ClipViews
from spa3r.teachers.dinov3 import VITL16, DinoV3Teacher, load_dinov3, squash
from tests.parity.golden import Golden, named, read_keymap, variants

NAMES = named("dinov3")
SIZES = variants(NAMES, "inputs/pixel_values/")


def teacher(golden: Golden) -> DinoV3Teacher:
    model = DINOv3ViTModel(DINOv3ViTConfig(**golden.config["hf"]))
    load_dinov3(model, golden.below("weights/hf/"))
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
    ours = squash(images[:, 0])[..., : corner.shape[-2], : corner.shape[-1]]
    golden.close(ours, f"extract/{size}/resized_224_first_view_corner_32x32")
    views = ClipViews(images_BV3HW=images, is_target_BV=torch.zeros(images.shape[:2]).bool())
    features = teacher(golden)(views, (height // 14, width // 14))
    golden.close(features, f"extract/{size}/features")


def test_names_and_shapes_equal_the_published_file() -> None:
    keymap = read_keymap("dinov3_vitl16")
    published = {
        key: torch.empty(shape, device="meta") for key, shape, _ in keymap["hf_keys_on_disk"]
    }
    with torch.device("meta"):
        model = DINOv3ViTModel(DINOv3ViTConfig.from_dict(VITL16))
    load_dinov3(model, published)  # raises WeightsError naming every misfit
