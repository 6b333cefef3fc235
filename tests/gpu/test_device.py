"""What needs a CUDA device: the same answers there as on the CPU. Skipped where there is none."""

import pytest
import torch

from spa3r.config import LossConfig, ModelConfig
from spa3r.models.losses import FieldTargets, psfm_loss
from spa3r.models.spa3r import Spa3RModel
from tests.small_vggt import small_vggt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GRID_HW = (4, 5)


def test_aggregator_agrees_with_the_cpu() -> None:
    aggregator = small_vggt().aggregator
    images_BV3HW = torch.rand(1, 4, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    is_target_BV = torch.tensor([[False, True, False, True]])
    layer = aggregator.config.depth - 1
    with torch.inference_mode():
        expected = aggregator(images_BV3HW, is_target_BV, layers=[layer])[layer]
        aggregator.cuda()
        found = aggregator(images_BV3HW.cuda(), is_target_BV.cuda(), layers=[layer])[layer]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_step_agrees_with_the_cpu(autocast: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        geo_width=16, sem_width=16, width=48, num_heads=3, num_latents=8,
        encoder_layers=2, decoder_layers=2,
    )  # fmt: skip
    model = Spa3RModel(config)
    context_BCND = torch.randn(2, 2, 20, 16)
    geo, sem = torch.randn(2, 2, 3, 20, 16)
    cameras, K = (
        torch.eye(4).expand(2, 3, 4, 4),
        torch.tensor([[50.0, 0, 35], [0, 50, 28], [0, 0, 1]]),
    )
    targets = FieldTargets(
        geo_BVND=geo, sem_BVND=sem, depth_BVN=torch.rand(2, 3, 20) + 1,
        valid_BVN=torch.ones(2, 3, 20, dtype=torch.bool),
        is_target_BV=torch.ones(2, 3, dtype=torch.bool),
    )  # fmt: skip

    def loss_on(device: str) -> float:
        moved = {name: getattr(targets, name).to(device) for name in targets.__slots__}
        with torch.autocast(device, torch.bfloat16, enabled=autocast and device == "cuda"):
            prediction = model.to(device)(
                context_BCND.to(device),
                cameras.to(device),
                K.expand(2, 3, 3, 3).to(device),
                GRID_HW,
            )
        loss = psfm_loss(prediction, FieldTargets(**moved), LossConfig())["total"]
        loss.backward()
        return loss.item()

    assert loss_on("cuda") == pytest.approx(loss_on("cpu"), rel=2e-2 if autocast else 1e-3)
