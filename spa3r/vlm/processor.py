"""From a conversation and its views to tensors, for tuning and for answering alike.

The views come prepared (`spa3r.vision_input.prepare_scene`): the vision tower gets the very pixels
that the encoder gets, neither resized nor cropped again. Legend as in spa3r/vlm/batch.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from spa3r.errors import ConfigError, WeightsError
from spa3r.instructions import Turn
from spa3r.tune_config import VlmConfig
from spa3r.vision_input import SceneViews
from spa3r.vlm.base import local_copy
from spa3r.vlm.batch import Geometry, VlmBatch
from spa3r.vlm.chat import Chat

IGNORED: Final = -100
"""Label of a token that is not learnt."""
# What Transformers raises for files that are absent or damaged.
_NO_PROCESSOR: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFeatures:
    """The vision tower's merged tokens of a conversation's images, computed before."""

    tokens: tuple[Tensor, ...]
    """(n, H) of each image."""
    grid_thw_I3: Tensor
    """int64, patches before merging."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One conversation, ready to stand in a batch."""

    input_ids_T: Tensor
    is_image_T: Tensor
    labels_T: Tensor
    image_grid_thw_I3: Tensor | None = None
    pixel_values_PC: Tensor | None = None
    image_tokens: tuple[Tensor, ...] | None = None
    geometry: Geometry | None = None
    name: Any = ""
    """What an error names."""

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids_T)

    @property
    def num_images(self) -> int:
        return 0 if self.image_grid_thw_I3 is None else len(self.image_grid_thw_I3)

    @property
    def num_learnt(self) -> int:
        """Supervised tokens."""
        return int((self.labels_T != IGNORED).sum())


class Processor:
    """Tokenizer and image processor of a base, and the sizes of a model on it."""

    def __init__(self, tokenizer: Any, image_processor: Any, config: VlmConfig) -> None:
        """Raises PromptError for a tokenizer without Qwen's special tokens, ConfigError for an
        image size that the vision tower's merged patches do not tile."""
        self.tokenizer, self.image_processor, self.config = tokenizer, image_processor, config
        self.chat = Chat(tokenizer, config.base)
        self.merge = int(image_processor.merge_size)
        self.patch = int(image_processor.patch_size)
        side = self.patch * self.merge
        if config.image_multiple % side:
            raise ConfigError(
                f"image_multiple {config.image_multiple} is no multiple of {side}, the merged patch"
                f" of {config.base}: set vlm.image_multiple and vlm.image_width to multiples of it"
            )

    @classmethod
    def from_base(cls, where: str, config: VlmConfig) -> "Processor":
        """Tokenizer and image processor of a base's folder or Hugging Face id.

        Raises:
            WeightsError: there are none, or they are damaged.
        """
        try:
            with local_copy(where) as place:
                here = Path(place).is_dir()
                tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=here)
                image_processor = Qwen2VLImageProcessorPil.from_pretrained(
                    place, local_files_only=here
                )
        except _NO_PROCESSOR as error:
            why = " ".join(str(error).split())
            raise WeightsError(
                f"{where}: no tokenizer or image processor of a Qwen vision-language model can be"
                f" had there ({type(error).__name__}: {why}); fetch the whole repository again"
            ) from error
        return cls(tokenizer, image_processor, config)

    # --- one conversation -------------------------------------------------------------------------

    def sample(
        self,
        turns: Sequence[Turn],
        views: SceneViews | ImageFeatures | None,
        geometry: Geometry | None = None,
        *,
        answer: bool = True,
        num_placeholder: int = 0,
        name: Any = "",
    ) -> Sample:
        """Tensors of one conversation.

        Args:
            turns: see `Chat.encode`.
            views: at working size, or what the tower made of them; None: no images.
            geometry: of the same scene; None: nothing of it enters.
            answer: False: the conversation ends where the assistant is to speak.
            num_placeholder: of the fusion `append`: geometry tokens in the sequence.

        Raises:
            PromptError: see `Chat.encode`. ConfigError: views of a size that patches do not tile.
        """
        grid_I3, pixels_PC = self.grid_of(views), None
        if isinstance(views, SceneViews):
            pixels_PC = self.pixels(views)
        chat = self.chat.encode(
            turns, self.image_lengths(grid_I3), answer=answer, num_placeholder=num_placeholder
        )
        ids_T = torch.tensor(chat.ids)
        learnt_T = torch.tensor(chat.is_learnt)
        return Sample(
            input_ids_T=ids_T,
            is_image_T=torch.tensor(chat.is_image).long(),
            labels_T=torch.where(learnt_T, ids_T, IGNORED),
            image_grid_thw_I3=grid_I3,
            pixel_values_PC=pixels_PC,
            image_tokens=views.tokens if isinstance(views, ImageFeatures) else None,
            geometry=geometry,
            name=name,
        )

    def length(
        self,
        turns: Sequence[Turn],
        grid_thw_I3: Tensor | None,
        *,
        answer: bool = True,
        num_placeholder: int = 0,
    ) -> int:
        """Tokens of the sample, from the images' sizes alone."""
        lengths = self.image_lengths(grid_thw_I3)
        chat = self.chat.encode(turns, lengths, answer=answer, num_placeholder=num_placeholder)
        return len(chat.ids)

    def grid_of(self, views: SceneViews | ImageFeatures | None) -> Tensor | None:
        """(I, 3) int64: time, rows and columns of the patches of each image; None: no images.

        Raises:
            ConfigError: merged patches do not tile them.
        """
        if views is None or isinstance(views, ImageFeatures):
            return None if views is None else views.grid_thw_I3
        count, height, width = views.rgb_VHW3.shape[:3]
        side = self.patch * self.merge
        if height % side or width % side:
            raise ConfigError(
                f"images of {width} x {height} pixels are not tiled by merged patches of {side}:"
                f" prepare them with a multiple of {side} (vlm.image_multiple)"
            )
        return torch.tensor([[1, height // self.patch, width // self.patch]] * count)

    def image_lengths(self, grid_thw_I3: Tensor | None) -> list[int] | None:
        """Merged tokens of each image; None: no images."""
        if grid_thw_I3 is None:
            return None
        return (grid_thw_I3.prod(-1) // self.merge**2).tolist()

    def text(self, tokens: Tensor) -> str:
        """Of an answer's tokens, as the model wrote it."""
        found = self.tokenizer.decode(
            tokens.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(found)

    def pixels(self, views: SceneViews) -> Tensor:
        """Pixel values (P, C) float32 of the views as they are."""
        made = self.image_processor(
            list(views.rgb_VHW3),
            do_resize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        return made["pixel_values"]

    # --- several ----------------------------------------------------------------------------------

    def collate(
        self, samples: Sequence[Sample], *, pad: Literal["right", "left"] = "right"
    ) -> VlmBatch:
        """Conversations side by side, padded on the right (tuning) or left (answering).

        All images come as pixels or all as features.
        """
        longest = max(map(len, samples))

        def padded(rows: Sequence[Tensor], fill: int) -> Tensor:
            out_BT = torch.full((len(rows), longest), fill, dtype=torch.int64)
            for out_T, row_T in zip(out_BT, rows, strict=True):
                start = 0 if pad == "right" else longest - len(row_T)
                out_T[start : start + len(row_T)] = row_T
            return out_BT

        with_images = [sample for sample in samples if sample.num_images]
        grids = [x.image_grid_thw_I3 for x in with_images if x.image_grid_thw_I3 is not None]
        pixels = [x.pixel_values_PC for x in with_images if x.pixel_values_PC is not None]
        tokens = [x.image_tokens for x in with_images if x.image_tokens is not None]
        if pixels and tokens:
            raise ConfigError(
                "a batch holds images as pixels and images as features: give all of one kind"
            )
        return VlmBatch(
            input_ids_BT=padded([x.input_ids_T for x in samples], self.tokenizer.pad_token_id),
            attention_mask_BT=padded([torch.ones_like(x.input_ids_T) for x in samples], 0),
            is_image_BT=padded([x.is_image_T for x in samples], 0),
            labels_BT=padded([x.labels_T for x in samples], IGNORED),
            image_grid_thw_I3=torch.cat(grids) if grids else None,
            pixel_values_PC=torch.cat(pixels) if pixels else None,
            image_tokens=tuple(one for each in tokens for one in each) if tokens else None,
            images_of=tuple(x.num_images for x in samples),
            geometry=tuple(x.geometry for x in samples),
            samples=tuple(x.name for x in samples),
        )
