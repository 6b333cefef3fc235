from pathlib import Path

import pytest
import safetensors.torch
import torch

from spa3r.errors import ConfigError, WeightsError
from spa3r.teachers.checkpoints import state_hash
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import VggtConfig, load_vggt, save_vggt
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from tests.small_vggt import SMALL, small_vggt


def test_a_saved_model_comes_back_with_its_configuration(tmp_path: Path) -> None:
    model = small_vggt()
    save_vggt(tmp_path, model)
    for uri in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_vggt(uri)
        assert loaded.config == SMALL
        assert state_hash(loaded.state_dict()) == state_hash(model.state_dict())
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save_vggt(tmp_path, model)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_the_track_head_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    state = small_vggt().state_dict()
    torch.save(state | {"track_head.tracker.a": torch.zeros(2)}, tmp_path / "model.pt")
    loaded = load_vggt(tmp_path, config=SMALL)
    assert loaded.state_dict().keys() == state.keys()
    torch.save(state | {"gs_head.a": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"unexpected gs_head\.a"):
        load_vggt(tmp_path, config=SMALL)


def test_the_rms_variant_drops_exactly_the_global_qk_biases(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_vggt(tmp_path, small_vggt())
    with caplog.at_level("WARNING"):
        loaded = load_vggt(tmp_path, qk_norm="rms")
    dropped = small_vggt().state_dict().keys() - loaded.state_dict().keys()
    assert dropped == {
        f"aggregator.global_blocks.{i}.attn.{x}_norm.bias" for i in range(4) for x in "qk"
    }
    assert "dropped 8 QK-norm biases" in caplog.text
    save_vggt(tmp_path / "rms", loaded)
    with pytest.raises(WeightsError, match=r"missing aggregator\.global_blocks\.0\.attn"):
        load_vggt(tmp_path / "rms", qk_norm="layernorm")
    load_vggt(tmp_path / "rms", qk_norm="rms")


def test_a_foreign_config_beside_the_weights_means_vggt_1b(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"img_size": 518}')
    with pytest.raises(WeightsError, match=r"aggregator\.frame_blocks\.\{0\.\.23\}"):
        load_vggt(tmp_path)


@pytest.mark.parametrize(
    ("dpt", "message"),
    [
        (DptConfig(layers=(1, 2, 3, 4)), "layers"),
        (DptConfig(patch_size=16, layers=(0, 1, 2, 3)), "patch"),
    ],
)
def test_heads_must_fit_the_aggregator(dpt: DptConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VggtConfig(aggregator=AggregatorConfig(depth=4), dpt=dpt)
