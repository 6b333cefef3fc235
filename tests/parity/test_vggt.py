"""VGGT against the published code's numbers (fixtures vggt_*, keymap_vggt_1b)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spa3r.teachers.camera_head import CameraHead, CameraHeadConfig
from spa3r.teachers.checkpoints import load_strict
from spa3r.teachers.dinov2 import DinoV2, DinoV2Config
from spa3r.teachers.dpt_head import DptConfig, DptHead
from spa3r.teachers.dpt_maps import uv_coordinates, uv_embedding
from spa3r.teachers.pose_encoding import decode_cameras, quaternion_to_matrix
from spa3r.teachers.rope import patch_positions, rotate, view_rope
from spa3r.teachers.vggt import RMS_UNUSED, UNUSED_PREFIXES, Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import Aggregator, AggregatorConfig
from tests.parity.golden import Golden, named, read_keymap, variants

AGGREGATORS = variants(named("vggt_aggregator"), "weights/")
MASKS = [
    (name, output)
    for name, output in variants(named("vggt_masked"), "outputs/", depth=2)
    if "aggregated" not in output and "attn_mask" not in output
]
CAMERA_HEADS = named("vggt_camera_head")
DPT_HEADS = variants(named("vggt_depth_head"), "weights/")
AGGREGATOR_FIELDS = (
    *("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_register_tokens"),
    *("rope_freq", "init_values"),
)
DINO_FIELDS = (
    *("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"),
    *("num_register_tokens", "init_values", "layernorm_eps"),
)


def aggregator(config: dict[str, Any], qk_norm: str = "layernorm") -> Aggregator:
    values: dict[str, Any] = {k: config[k] for k in AGGREGATOR_FIELDS if k in config}
    if "dino" in config:
        values["dinov2"] = DinoV2Config(**{k: config["dino"][k] for k in DINO_FIELDS})
    kind = "dinov2" if "dino" in config else "conv"
    return Aggregator(AggregatorConfig(**values, patch_embed=kind, global_qk_norm=qk_norm)).eval()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("name", "variant"), AGGREGATORS)
def test_aggregator(name: str, variant: str) -> None:
    golden = Golden(name)
    config = golden.config[variant]
    model = aggregator(config)
    load_strict(model, golden.below(f"weights/{variant}/"))
    layers = range(config["depth"])
    images = golden["inputs/images"]
    tokens = model(images, layers=layers)
    pictures = {"single_view": images[:, :1]} | golden.below("inputs/images_")
    checked = 0
    for i in layers:
        golden.close(tokens[i], f"{variant}/aggregated_tokens/{i}")
        for case, picture in pictures.items():
            key = f"{variant}/{case}/aggregated_tokens/{i}"
            if f"outputs/{key}" in golden.tensors:
                golden.close(model(picture, layers=[i])[i], key)
                checked += 1
    assert checked


@pytest.mark.parametrize(("name", "variant"), AGGREGATORS)
def test_patch_embedding(name: str, variant: str) -> None:
    golden = Golden(name)
    model = aggregator(golden.config[variant])
    load_strict(model, golden.below(f"weights/{variant}/"))
    # The blocks see the embedding as their input; here it is run alone, on normalised pixels.
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    frames = (golden["inputs/images"].flatten(0, 1) - mean) / std
    embed = model.patch_embed
    where = f"{variant}/patch_embed"
    if not isinstance(embed, DinoV2):
        golden.close(embed(frames), f"{where}/tokens")
        return
    grid_hw = (frames.shape[2] // embed.patch_size, frames.shape[3] // embed.patch_size)
    resized = embed.position_embedding(grid_hw)
    golden.close(resized, f"{where}/pos_embed_interp_{grid_hw[0]}x{grid_hw[1]}")
    features = embed.features(frames)
    golden.close(features, f"{where}/x_prenorm")
    normed = embed.norm(features)
    golden.close(normed[:, 0], f"{where}/x_norm_clstoken")
    golden.close(normed[:, 1 : embed.num_prefix], f"{where}/x_norm_regtokens")
    golden.close(embed(frames), f"{where}/x_norm_patchtokens")


@pytest.mark.parametrize("name", named("vggt_aggregator"))
def test_rope(name: str) -> None:
    golden = Golden(name)
    q_BHTD, expected = golden["inputs/rope/q"], golden["outputs/rope_positions_yx"]
    config = next(iter(golden.config.values()))
    num_special = 1 + config["num_register_tokens"]
    grid_hw = (int(expected[0, -1, 0]), int(expected[0, -1, 1]))
    torch.testing.assert_close(patch_positions(grid_hw, num_special), expected[0])
    rope = view_rope(
        grid_hw, num_special, q_BHTD.shape[-1], config["rope_freq"], torch.device("cpu")
    )
    golden.close(rotate(q_BHTD.transpose(1, 2), rope).transpose(1, 2), "rope/q_rot")


@pytest.mark.parametrize(("name", "case"), MASKS)
def test_masked_aggregator(name: str, case: str) -> None:
    golden = Golden(name)
    variant, mask = case.split("/")
    model = aggregator(golden.config, "rms" if variant == "rms" else "layernorm")
    # The other variants list only what differs from "rms".
    load_strict(model, golden.below("weights/rms/") | golden.below(f"weights/{variant}/"))
    is_target = None if mask == "unmasked" else golden[f"inputs/view_mask/{mask}"]
    expected = golden.below(f"outputs/{case}/aggregated_tokens/")
    tokens = model(golden["inputs/images"], is_target, layers=[int(i) for i in expected])
    assert expected
    for i in expected:
        golden.close(tokens[int(i)], f"{case}/aggregated_tokens/{i}")


def camera_head(golden: Golden) -> CameraHead:
    fields = ("trunk_depth", "num_heads", "mlp_ratio", "init_values")
    config = CameraHeadConfig(**{k: golden.config[k] for k in fields})
    head = CameraHead(golden.config["dim_in"], config).eval()
    load_strict(head, golden.below("weights/camera_head/"))
    return head


@pytest.mark.parametrize("name", CAMERA_HEADS)
def test_camera_head(name: str) -> None:
    golden = Golden(name)
    head = camera_head(golden)
    deltas: list[Tensor] = []
    head.pose_branch.register_forward_hook(lambda _module, _args, out: deltas.append(out))
    head.token_norm.register_forward_hook(
        lambda _module, _args, out: golden.close(out, "pose_tokens_normed")
    )
    encodings = head(golden["inputs/aggregated_tokens_last"][:, :, 0])
    assert len(encodings) == len(golden.below("outputs/pose_enc_activated/"))
    for i, encoding in enumerate(encodings):
        golden.close(encoding, f"pose_enc_activated/iter{i}")
        golden.close(deltas[i], f"pose_enc_delta/iter{i}")
        raw = torch.stack(deltas[: i + 1]).sum(dim=0)
        golden.close(raw, f"pose_enc_raw_accumulated/iter{i}")
    golden.close(encodings[1], "pose_enc_activated_2iters")


@pytest.mark.parametrize("name", CAMERA_HEADS)
def test_pose_encoding(name: str) -> None:
    golden = Golden(name)
    height, width = golden.spec["shapes"]["image_size_hw"]
    camera_from_world, K = decode_cameras(golden["inputs/pose/enc"], (height, width))
    golden.close(camera_from_world, "pose/extrinsics_4x4")
    golden.close(camera_from_world[..., :3, :], "pose/extrinsics_3x4")
    golden.close(camera_from_world.inverse(), "pose/c2w_4x4")
    golden.close(K, "pose/intrinsics")
    # What the published code encodes from these cameras means the same cameras to us.
    again, K_again = decode_cameras(golden["outputs/pose/roundtrip_enc"], (height, width))
    golden.close(again, "pose/extrinsics_4x4")
    golden.close(K_again, "pose/intrinsics")
    rotation = quaternion_to_matrix(golden["outputs/pose/mat_to_quat"])
    golden.close(torch.cat([rotation, camera_from_world[..., :3, 3:]], -1), "pose/extrinsics_3x4")
    for given in ("inputs/quat/special_xyzw", "outputs/quat/special_back_xyzw"):
        golden.close(quaternion_to_matrix(golden[given]), "quat/special_R")


@pytest.mark.parametrize("name", CAMERA_HEADS)
def test_a_field_of_view_of_zero_is_an_infinite_focal_length(name: str) -> None:
    golden = Golden(name)
    height, width = golden.spec["shapes"]["image_size_hw"]
    encoding = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0, 0]).float().view(1, 1, 9)
    K = decode_cameras(encoding, (height, width))[1]
    torch.testing.assert_close(K, torch.tensor(golden.spec["degenerate"]["fov=0"]))


def dpt_head(golden: Golden, kind: str) -> DptHead:
    config = golden.config
    dpt = DptConfig(
        patch_size=config["patch_size"],
        features=config["features"],
        out_channels=tuple(config["out_channels"]),
        layers=tuple(config["intermediate_layer_idx"]),
    )
    channels, activation = config[kind]["output_dim"] - 1, config[kind]["activation"]
    head = DptHead(config["dim_in"], dpt, channels=channels, activation=activation).eval()
    load_strict(head, golden.below(f"weights/{kind}/"))
    return head


def run_dpt(golden: Golden, head: DptHead, views_per_chunk: int = 8) -> tuple[Tensor, Tensor]:
    skip = golden.spec["shapes"]["patch_start_idx"]
    levels = golden.below("inputs/aggregated_tokens/")
    layers = golden.config["intermediate_layer_idx"]
    image_hw = (golden.spec["shapes"]["H"], golden.spec["shapes"]["W"])
    maps = [levels[str(i)][:, :, skip:] for i in layers]
    return head(maps, image_hw, views_per_chunk=views_per_chunk)


@pytest.mark.parametrize(("name", "kind"), DPT_HEADS)
def test_dpt_head(name: str, kind: str) -> None:
    golden = Golden(name)
    head = dpt_head(golden, kind)
    inside: dict[str, nn.Module] = {"output_conv1": head.scratch.output_conv1}
    inside["head_logits"] = head.scratch.output_conv2
    for i in range(4):
        inside[f"project{i}"] = head.projects[i]
        inside[f"resize{i}"] = head.resize_layers[i]
        inside[f"refinenet{i + 1}"] = head.scratch.get_submodule(f"refinenet{i + 1}")
    seen: dict[str, list[Tensor]] = {key: [] for key in inside}
    for key, module in inside.items():
        # Cloned, because the position embedding is added in place.
        module.register_forward_hook(lambda _m, _a, out, key=key: seen[key].append(out.clone()))
    answer, confidence = run_dpt(golden, head)
    golden.close(answer, f"{kind}/preds")
    golden.close(confidence, f"{kind}/conf")
    expected = golden.below(f"outputs/{kind}/mid/")
    assert expected
    for key in expected:
        golden.close(seen[key][0][:1], f"{kind}/mid/{key}")
    if f"outputs/{kind}/depth_gt_patch_grid" in golden.tensors:
        patch = golden.config["patch_size"]
        corner = answer[:, :, ::patch, ::patch].flatten(2, 3)
        golden.close(corner, f"{kind}/depth_gt_patch_grid")


@pytest.mark.parametrize(("name", "kind"), DPT_HEADS)
def test_chunks_of_views_change_nothing(name: str, kind: str) -> None:
    golden = Golden(name)
    head = dpt_head(golden, kind)
    whole = run_dpt(golden, head)
    for views_per_chunk in (1, 3):
        ours = run_dpt(golden, head, views_per_chunk)
        for chunked, at_once in zip(ours, whole, strict=True):
            torch.testing.assert_close(chunked, at_once)


@pytest.mark.parametrize(("name", "size"), variants(named("vggt_depth_head"), "outputs/uv_grid/"))
def test_uv_embedding(name: str, size: str) -> None:
    golden = Golden(name)
    width, height = map(int, size.split("x"))
    aspect = golden.spec["shapes"]["W"] / golden.spec["shapes"]["H"]
    diagonal = (aspect**2 + 1) ** 0.5
    x, y = uv_coordinates(width, aspect / diagonal), uv_coordinates(height, 1 / diagonal)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    golden.close(grid, f"uv_grid/{size}")
    tables = golden.below(f"outputs/uv_pos_embed/{size}_dim")
    assert tables
    for channels in tables:
        table = uv_embedding(int(channels), (height, width), aspect).permute(1, 2, 0)
        golden.close(table, f"uv_pos_embed/{size}_dim{channels}")


@pytest.mark.parametrize("qk_norm", ["layernorm", "rms"])
def test_names_and_shapes_equal_the_published_checkpoint(qk_norm: Any) -> None:
    keymap = read_keymap("vggt_1b")
    published = {key: tuple(shape) for key, shape, _ in keymap["keys"]}
    ignored = set(keymap["keys_ignored_by_MaskedVGGT_from_pretrained"])
    assert {key for key in published if RMS_UNUSED.fullmatch(key)} == ignored
    expected = {k: v for k, v in published.items() if not k.startswith(UNUSED_PREFIXES)}
    if qk_norm == "rms":
        expected = {k: v for k, v in expected.items() if k not in ignored}
    with torch.device("meta"):
        model = Vggt(VggtConfig(aggregator=AggregatorConfig(global_qk_norm=qk_norm)))
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == expected
