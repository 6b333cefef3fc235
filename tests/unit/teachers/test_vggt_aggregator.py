import pytest
import torch
from torch import Tensor, nn

from benchmarks.encode import all_layers
from spa3r.errors import ConfigError
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from tests.small_vggt import small_vggt

LAST = 3


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def images(num_scenes: int = 2, num_views: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num_scenes, num_views, 3, 28, 42, generator=generator)


def test_changing_a_target_view_leaves_the_context_bit_equal() -> None:
    model = small_vggt().aggregator
    pictures = images()
    is_target = torch.tensor([[False, True, False, True], [False, False, True, True]])
    before = model(pictures, is_target, layers=[LAST])[LAST]
    pictures[0, 1] = 1 - pictures[0, 1]
    after = model(pictures, is_target, layers=[LAST])[LAST]
    assert torch.equal(before[~is_target], after[~is_target])
    assert not torch.allclose(before[0, 3], after[0, 3])
    assert torch.equal(before[1], after[1])


def test_context_tokens_equal_those_of_the_context_alone() -> None:
    model = small_vggt().aggregator
    pictures = images()
    is_target = torch.tensor([[False, True, False, True]] * 2)
    masked = model(pictures, is_target, layers=[LAST])[LAST][:, [0, 2]]
    alone = model(pictures[:, [0, 2]], layers=[LAST])[LAST]
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=1e-5)
    everything = model(pictures, layers=[LAST])[LAST][:, [0, 2]]
    assert not torch.allclose(masked, everything, atol=1e-2)


def test_uneven_context_counts_equal_scene_by_scene() -> None:
    model = small_vggt().aggregator
    pictures = images(3)
    is_target = torch.tensor(
        [[False, True, True, True], [False, True, False, False], [False, False, True, True]]
    )
    together = model(pictures, is_target, layers=[1, LAST])
    for b in range(3):
        one = model(pictures[b : b + 1], is_target[b : b + 1], layers=[1, LAST])
        for layer in (1, LAST):
            torch.testing.assert_close(together[layer][b : b + 1], one[layer], atol=1e-5, rtol=1e-5)


def test_only_the_layers_asked_for_are_run_and_kept() -> None:
    model = small_vggt().aggregator
    runs: list[int] = []
    for i, block in enumerate(model.global_blocks):
        block.get_submodule("mlp").register_forward_hook(lambda *_, i=i: runs.append(i))
    kept = model(images(), layers=[1])
    assert set(kept) == {1}
    assert runs == [0, 1]


@pytest.mark.parametrize("views_per_chunk", [1, 3, 10])
def test_equals_the_straightforward_way_whatever_the_chunks(views_per_chunk: int) -> None:
    """Against whole batches and whole sequences, all layers kept."""
    model, pictures = small_vggt(), images(2, 5)
    expected = all_layers(model, pictures)
    ours = model.aggregator(pictures, layers=range(LAST + 1), views_per_chunk=views_per_chunk)
    for i, theirs in enumerate(expected):
        # Values around 5; only the order of sums inside matrix products may differ.
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=1e-5)


def test_chunks_of_views_keep_the_partition() -> None:
    model, pictures = small_vggt().aggregator, images(2, 5)
    is_target = torch.tensor([[False, True, False, True, True], [False, False, True, True, True]])
    whole = model(pictures, is_target, layers=[LAST], views_per_chunk=10)[LAST]
    chunked = model(pictures, is_target, layers=[LAST], views_per_chunk=2)[LAST]
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_everything_but_the_attention_sees_one_chunk_of_views_at_a_time() -> None:
    model, widest = small_vggt(), 0

    def watch(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal widest
        widest = max(widest, len(given[0]))

    for module in [*model.aggregator.modules(), *model.depth_head.modules()]:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
            module.register_forward_pre_hook(watch)
    levels = model.aggregator(images(1, 7), layers=range(LAST + 1), views_per_chunk=3)
    maps = [levels[i][:, :, model.aggregator.num_special :] for i in range(LAST + 1)]
    model.depth_head(maps, (28, 42), views_per_chunk=3)
    assert widest == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 36, "num_heads": 6}, "head width"),
        ({"embed_dim": 64, "num_heads": 4}, "patch embedding"),
        ({"dinov2": DinoV2Config(patch_size=16)}, "patch embedding"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AggregatorConfig(**settings)
