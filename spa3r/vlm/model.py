"""Spa3-VLM: a base, the geometry that enters it, and what of the two is trained (paper 3.3).

Legend: B conversations, T tokens of the longest, I images of all conversations together, P patches
of all images, C values of a patch, n tokens of one image, H width of the language model.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spa3r.errors import ConfigError
from spa3r.teachers.checkpoints import check_fit
from spa3r.tune_config import VlmConfig
from spa3r.vlm.base import Added, VlmBase
from spa3r.vlm.batch import Geometry, VlmBatch
from spa3r.vlm.fusion import Fused, Fusion, Grids
from spa3r.vlm.lora import add_lora, is_lora, lora_state


class Spa3VlmModel(nn.Module):
    """Images, text and geometry in, logits or text out. Each conversation sees its own scene only.

    A conversation without geometry (None) is answered as if there were no fusion.
    """

    def __init__(self, base: VlmBase, fusion: Fusion, config: VlmConfig) -> None:
        """Takes over base and fusion; with language="lora" the base gets its low-rank updates,
        zero at first.

        Raises:
            ConfigError: images cropped to a multiple that is none of the base's merged patch, or
                more fusion layers than decoder layers.
        """
        super().__init__()
        if config.image_multiple % base.merged_patch:
            raise ConfigError(
                f"image_multiple {config.image_multiple} is no multiple of the base's merged patch,"
                f" {base.merged_patch}; set vlm.image_multiple"
            )
        if config.fusion.kind == "deep_stack" and len(config.fusion.layers) > len(base.layers):
            raise ConfigError(
                f"fusion.layers names {len(config.fusion.layers)} layers, the base has"
                f" {len(base.layers)}"
            )
        self.config, self.base, self.fusion = config, base, fusion
        if config.language == "lora":
            add_lora(base.language_model, config.lora)
        self.freeze(config)

    # --- use --------------------------------------------------------------------------------------

    def forward(self, batch: VlmBatch, logits_to_keep: int | Tensor = 0) -> Tensor:
        """Logits (B, T, vocabulary).

        Args:
            logits_to_keep: how many of the last positions, 0 all of them; or which ones, (t,) int.
        """
        return self.base.logits(self.inputs(batch), logits_to_keep)

    @torch.no_grad()
    def generate(
        self, batch: VlmBatch, *, max_new_tokens: int, streamer: Any = None
    ) -> list[Tensor]:
        """The greedy answers: for each conversation its new tokens, without the end token. One of
        `max_new_tokens` tokens was cut short.

        Args:
            batch: padded on the left.
            streamer: a Transformers streamer, which gets tokens as they come; B must be 1.

        Raises:
            ConfigError: padding on the right, which would stand between question and answer.
        """
        if not bool(batch.attention_mask_BT[:, -1].all()):
            raise ConfigError("generate needs a batch padded on the left; collate with pad='left'")
        whole = self.base.generate(
            self.inputs(batch), max_new_tokens=max_new_tokens, streamer=streamer
        )
        return [self._until_end(row) for row in whole[:, batch.input_ids_BT.shape[1] :]]

    def _until_end(self, tokens: Tensor) -> Tensor:
        ends = torch.isin(tokens, torch.tensor(self.base.end_ids, device=tokens.device))
        return tokens[: int(ends.int().argmax())] if bool(ends.any()) else tokens

    @torch.no_grad()
    def image_tokens(
        self, pixel_values_PC: Tensor, image_grid_thw_I3: Tensor
    ) -> tuple[Tensor, ...]:
        """The frozen vision tower's tokens of each image, (n, H) with Qwen2.5-VL; what
        `VlmBatch.image_tokens` takes."""
        return self.base.image_tokens(pixel_values_PC, image_grid_thw_I3)

    def inputs(self, batch: VlmBatch) -> dict[str, Any]:
        """Arguments for the base's forward or generate, geometry included.

        Raises:
            ConfigError: images, geometry and placeholders that do not belong together.
        """
        images_of, geometry = _per_conversation(batch)
        tokens = batch.image_tokens or ()
        if batch.pixel_values_PC is not None and batch.image_grid_thw_I3 is not None:
            tokens = self.image_tokens(batch.pixel_values_PC, batch.image_grid_thw_I3)
        if len(tokens) != sum(images_of):
            raise ConfigError(f"{len(tokens)} images for conversations of {images_of} images")
        grid = batch.image_grid_thw_I3
        merge = self.base.merge
        grids_hw = [] if grid is None else [(h // merge, w // merge) for _, h, w in grid.tolist()]
        fused, first = [], 0
        for count, scene in zip(images_of, geometry, strict=True):
            own = slice(first, first + count)
            fused.append(self._fuse(tokens[own], scene, grids_hw[own]))
            first += count
        return self.base.inputs(
            input_ids_BT=batch.input_ids_BT,
            attention_mask_BT=batch.attention_mask_BT,
            is_image_BT=batch.is_image_BT,
            image_grid_thw_I3=batch.image_grid_thw_I3,
            image_tokens=[x for one in fused for x in one.image_tokens],
            added=[*self._added(batch, geometry, fused), *self._link()],
        )

    def _fuse(self, tokens: Sequence[Tensor], geometry: Geometry | None, grids_hw: Grids) -> Fused:
        if geometry is None:
            return Fused(image_tokens=tuple(tokens))
        width = self.base.hidden_size
        fused = self.fusion([x[:, :width] for x in tokens], geometry, grids_hw)
        whole = (
            torch.cat((new, old[:, width:].to(new.dtype)), dim=1) if old.shape[1] > width else new
            for new, old in zip(fused.image_tokens, tokens, strict=True)
        )
        return Fused(image_tokens=tuple(whole), added=fused.added)

    def _added(
        self, batch: VlmBatch, geometry: Sequence[Geometry | None], fused: Sequence[Fused]
    ) -> Iterator[Added]:
        """What decoder layers get, of all conversations that have geometry."""
        if self.fusion.adds_at == "nothing":
            return
        given_B = torch.tensor([x is not None for x in geometry], device=batch.input_ids_BT.device)
        if self.fusion.adds_at == "images":
            mask_BT = batch.is_image_BT.bool() & given_B[:, None]
        else:
            mask_BT = batch.input_ids_BT == self.base.placeholder_id
            self._check_placeholders(mask_BT.sum(dim=1).tolist(), geometry)
        layers = zip(*(one.added for one in fused if one.added), strict=True)
        for i, rows in enumerate(layers):
            yield Added(layer=i, rows_NH=torch.cat(rows), mask_BT=mask_BT)

    def _check_placeholders(
        self, counts: Sequence[int], geometry: Sequence[Geometry | None]
    ) -> None:
        for i, (count, scene) in enumerate(zip(counts, geometry, strict=True)):
            wanted = self.fusion.num_placeholders(scene)
            if count != wanted:
                raise ConfigError(
                    f"conversation {i} has {count} placeholder tokens, its geometry {wanted}; make"
                    f" the prompt with num_placeholder={wanted}"
                )

    def _link(self) -> Iterator[Added]:
        """In training: ties every parameter of the fusion to the loss, by adding zero. Workers
        would otherwise wait for each other's gradients after a batch without geometry."""
        parameters = [p for p in self.fusion.parameters() if p.requires_grad]
        if self.training and torch.is_grad_enabled() and parameters:
            nothing = torch.stack([0.0 * p.sum() for p in parameters]).sum()
            yield Added(layer=0, rows_NH=nothing, mask_BT=None)

    # --- training ---------------------------------------------------------------------------------

    def freeze(self, config: VlmConfig) -> None:
        """Leaves trainable: the fusion, and of the language model what `config.language` says."""
        self.requires_grad_(False)
        self.fusion.requires_grad_(True)
        for name, parameter in self.base.language_model.named_parameters():
            wanted = is_lora(name) if config.language == "lora" else config.language == "full"
            parameter.requires_grad_(wanted)
        if config.language == "full":
            self.base.lm_head.requires_grad_(True)
        self.train(self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; a weight that two names share under the first."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def blocks(self) -> Iterator[nn.Module]:
        """The decoder layers: units of sharding and of activation checkpointing. The fusion must
        not be a unit of its own: a batch without geometry does not run it."""
        yield from self.base.layers

    def train(self, mode: bool = True) -> "Spa3VlmModel":
        """Training mode; the frozen vision tower stays in eval mode."""
        super().train(mode)
        self.base.tower.eval()
        return self

    # --- what of the language model is ours -------------------------------------------------------

    def language_state(self) -> dict[str, Tensor]:
        """What tuning changes in the language model, without what is tied: "full", its weights by
        their names in Transformers; "lora", the updates; "frozen", nothing."""
        if self.config.language == "frozen":
            return {}
        if self.config.language == "lora":
            return lora_state(self.base.language_model)
        return self.base.language_state()

    def load_language_state(self, state: Mapping[str, Tensor], where: str | Path) -> None:
        """Puts back what `language_state` gave.

        Raises:
            WeightsError: names every missing, unexpected and misshapen tensor.
        """
        own = self.language_state()
        check_fit(own, state, network=f"the language model ({self.config.language})", where=where)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])


def _per_conversation(batch: VlmBatch) -> tuple[tuple[int, ...], tuple[Geometry | None, ...]]:
    """Number of images and geometry of each conversation; a batch may leave out what none has."""
    many = len(batch.input_ids_BT)
    images_of = batch.images_of or (0,) * many
    geometry = batch.geometry or (None,) * many
    if len(images_of) != many or len(geometry) != many:
        raise ConfigError(
            f"{many} conversations, but images_of names {len(images_of)} and geometry"
            f" {len(geometry)}"
        )
    return images_of, geometry
