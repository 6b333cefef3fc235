"""Tensors of conversations: one preprocessing for both towers, padding, lengths."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spa3r.errors import ConfigError, WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.instructions import Turn
from spa3r.vision_input import prepare_scene
from spa3r.vlm.processor import IGNORED, ImageFeatures, Processor
from spa3r.vlm.spa3_vlm import Request, Spa3VLM
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import tiny_base, tiny_config, tiny_vlm

TURNS = (Turn(role="user", text="<video>\nHow many?"), Turn(role="assistant", text="12"))


@pytest.fixture(scope="module")
def vlm() -> Spa3VLM:
    return tiny_vlm()


def test_both_towers_get_the_same_pixels(vlm: Spa3VLM, monkeypatch: pytest.MonkeyPatch):
    """Photos of a shape that must be resized and cropped: what each tower is given, undone."""
    given = scan_arrays(views=2, width=301, height=233)
    given["images"] = np.random.default_rng(0).integers(0, 256, given["images"].shape, np.uint8)
    seen: dict[str, torch.Tensor] = {}
    assert vlm.encoder is not None
    context = vlm.encoder.teacher.context

    def teacher(views, *, surface):
        seen["encoder"] = views.images_BV3HW[0]
        return context(views, surface=surface)

    tower = vlm.model.image_tokens

    def image_tokens(pixel_values, grid):
        seen["tower"] = pixel_values
        return tower(pixel_values, grid)

    monkeypatch.setattr(vlm.encoder.teacher, "context", teacher)
    monkeypatch.setattr(vlm.model, "image_tokens", image_tokens)
    vlm.ask(given.pop("images"), "How many?", **given, max_new_tokens=1)
    processor = vlm.processor.image_processor
    mean, std = (
        torch.tensor(x)[:, None, None, None] for x in (processor.image_mean, processor.image_std)
    )
    height, width = seen["encoder"].shape[-2:]
    assert (height, width) == (84, 112)
    # (row, column, row in 2, column in 2, colour, time, y, x) of patches of 14 pixels
    blocks = seen["tower"].reshape(2, height // 28, width // 28, 2, 2, 3, 2, 14, 14)
    picture = blocks.permute(0, 5, 6, 1, 3, 7, 2, 4, 8).reshape(2, 3, 2, height, width)
    undone = picture * std + mean
    for frame in range(2):  # both frames of a temporal patch are the photo
        assert torch.allclose(undone[:, :, frame], seen["encoder"], atol=1e-5)


def test_a_sample_has_labels_where_the_assistant_speaks(vlm: Spa3VLM):
    views = vlm.views(**scan_arrays(views=2))
    sample = vlm.processor.sample(TURNS, views, name="q1")
    learnt = sample.labels_T != IGNORED
    assert sample.num_learnt == int(learnt.sum()) == 3  # "1", "2" and the end
    assert torch.equal(sample.labels_T[learnt], sample.input_ids_T[learnt])
    assert vlm.processor.text(sample.input_ids_T[learnt]) == "12"
    assert sample.num_images == 2 and int(sample.is_image_T.sum()) == 2 * 3 * 4
    assert sample.image_grid_thw_I3 is not None and sample.pixel_values_PC is not None
    assert sample.image_grid_thw_I3.tolist() == [[1, 6, 8]] * 2
    assert sample.pixel_values_PC.shape == (2 * 48, 1176)
    assert len(sample) == vlm.processor.length(TURNS, sample.image_grid_thw_I3)


def test_a_batch_is_padded_on_the_asked_side(vlm: Spa3VLM):
    views = vlm.views(**scan_arrays(views=2))
    long = vlm.processor.sample(TURNS, views, name="long")
    short = vlm.processor.sample(TURNS, None, name="short")
    pad = vlm.processor.tokenizer.pad_token_id
    for side in ("right", "left"):
        batch = vlm.processor.collate([short, long], pad=side)
        gap = len(long) - len(short)
        empty, full = (slice(len(short), None), slice(0, len(short))) if side == "right" else (
            slice(0, gap), slice(gap, None))  # fmt: skip
        assert torch.equal(batch.input_ids_BT[0, full], short.input_ids_T)
        assert batch.input_ids_BT[0, empty].unique().tolist() == [pad]
        assert batch.attention_mask_BT[0].sum() == len(short)
        assert not batch.attention_mask_BT[0, empty].any()
        assert batch.labels_BT is not None
        assert batch.labels_BT[0, empty].unique().tolist() == [IGNORED]
        assert torch.equal(batch.labels_BT[1], long.labels_T)
        assert batch.images_of == (0, 2) and batch.samples == ("short", "long")
        assert batch.geometry == (None, None)
    blind = vlm.processor.collate([short])
    assert blind.image_grid_thw_I3 is None and blind.pixel_values_PC is None


def test_features_stand_in_for_pixels(vlm: Spa3VLM):
    views = vlm.views(**scan_arrays(views=2))
    whole = vlm.processor.sample(TURNS, views)
    assert whole.pixel_values_PC is not None and whole.image_grid_thw_I3 is not None
    tokens = vlm.model.image_tokens(whole.pixel_values_PC, whole.image_grid_thw_I3)
    features = ImageFeatures(tokens=tokens, grid_thw_I3=whole.image_grid_thw_I3)
    short = vlm.processor.sample(TURNS, features)
    assert torch.equal(short.input_ids_T, whole.input_ids_T) and short.pixel_values_PC is None
    logits = [vlm.model(vlm.processor.collate([x])) for x in (whole, short)]
    assert torch.equal(*logits)
    with pytest.raises(ConfigError, match="pixels and images as features"):
        vlm.processor.collate([whole, short])
    with pytest.raises(ConfigError, match="has no pixels to encode"):
        vlm.answer_many([Request(turns=TURNS[:1], views=features)])


def test_views_that_patches_do_not_tile_are_refused(vlm: Spa3VLM):
    views = prepare_scene(scan_arrays(views=1)["images"], width=70, multiple=14)
    with pytest.raises(ConfigError, match=r"70 x 42 pixels .* merged patches of 28"):
        vlm.processor.sample(TURNS, views)


def test_a_multiple_that_the_base_does_not_know_is_refused(tmp_path: Path):
    folder = str(tiny_base(tmp_path))
    with pytest.raises(ConfigError, match="image_multiple 14 is no multiple of 28"):
        Processor.from_base(folder, tiny_config(image_multiple=14))


@pytest.mark.parametrize("damage", ["absent", "empty", "cut"])
def test_a_base_without_a_tokenizer_is_one_line(tmp_path: Path, damage: str):
    folder = tiny_base(tmp_path)
    if damage == "absent":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text("" if damage == "empty" else '{"version": "1.0"')
    with pytest.raises(WeightsError, match="no tokenizer or image processor") as caught:
        Processor.from_base(str(folder), tiny_config())
    assert "\n" not in str(caught.value)


def test_a_base_behind_a_url(tmp_path: Path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in tiny_base(tmp_path).iterdir():
        memory.pipe_file(f"/bases/tiny/{file.name}", file.read_bytes())
    processor = Processor.from_base("memory://bases/tiny", tiny_config())
    assert processor.chat.text_ids("1") == Processor.from_base(
        str(tmp_path), tiny_config()
    ).chat.text_ids("1")


def test_the_encoder_takes_the_views_as_they_are(vlm: Spa3VLM):
    """Not at its own width of 224."""
    encoder = vlm.encoder
    assert isinstance(encoder, Spa3REncoder)
    views = vlm.views(**scan_arrays(views=2))
    scene = encoder.encode_views(views, surface_points=0)
    assert scene.grid_hw == (3, 4) and scene.source_sizes == ((224, 168),) * 2
    with pytest.raises(ConfigError, match="not tiled by this encoder's patches of 28"):
        encoder.encode_views(replace(views, rgb_VHW3=views.rgb_VHW3[:, :70]))
