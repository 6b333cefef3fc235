"""The vision-language model underneath, as Transformers has it, behind one small interface.

Geometry reaches it through two doors that are there anyway, so no class is patched and no forward
copied: the vision tower's output, which Transformers takes ready-made (`mm_encoder_outputs`, which
`generate` drops after the prefill), and forward pre-hooks on the decoder layers.

Legend: B conversations, T tokens of the longest, I images, P patches of all images, C values of a
patch, n tokens of one image, N rows added, H width of the language model, K deep-stack levels of
the tower (Qwen3-VL; 0 in Qwen2.5-VL).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.utils import logging

from spa3r import storage
from spa3r.errors import ConfigError, WeightsError
from spa3r.teachers.checkpoints import fold, load_json

SUPPORTED: Final = ("qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` in config.json."""
_ADDED: Final = "spa3r_added"
_UNREADABLE: Final = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, ZeroDivisionError),
    *(SafetensorError, StrictDataclassError),
)
"""What Transformers raises over damaged files and over configurations without sense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """What is added to the input of one decoder layer, during the prefill."""

    layer: int
    rows_NH: Tensor
    mask_BT: Tensor | None
    """True at the N tokens that get the rows, in order; None: one scalar for all of them."""


class VlmBase(Protocol):
    """All that Spa3-VLM needs of a base. Implementations are `nn.Module`s."""

    hidden_size: int
    num_heads: int
    merged_patch: int
    """Side in pixels of the square that one image token stands for."""
    merge: int
    """Patches along such a side."""
    placeholder_id: int
    """Token id that geometry appended to the sequence takes the place of. It counts as text
    (`is_image_BT` 0)."""
    end_ids: list[int]
    """Tokens that end an answer."""

    @property
    def tower(self) -> nn.Module: ...

    @property
    def language_model(self) -> nn.Module: ...

    @property
    def lm_head(self) -> nn.Module: ...

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    def image_tokens(
        self, pixel_values_PC: Tensor, image_grid_thw_I3: Tensor
    ) -> tuple[Tensor, ...]: ...

    def inputs(
        self,
        *,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        is_image_BT: Tensor,
        image_grid_thw_I3: Tensor | None,
        image_tokens: Sequence[Tensor],
        added: Sequence[Added],
    ) -> dict[str, Any]: ...

    def logits(self, inputs: dict[str, Any], logits_to_keep: int | Tensor) -> Tensor: ...

    def generate(self, inputs: dict[str, Any], *, max_new_tokens: int, streamer: Any) -> Tensor: ...

    def checkpoint_activations(self) -> None: ...

    def language_state(self) -> dict[str, Tensor]: ...


class QwenBase(nn.Module):
    """Qwen2.5-VL or Qwen3-VL. `hf` is the model of Transformers, unchanged but for its generation
    settings, of which the end tokens are left."""

    def __init__(self, hf: PreTrainedModel) -> None:
        """Raises ConfigError for a model of another kind, or end tokens that are no ids."""
        super().__init__()
        config: Any = hf.config
        if config.model_type not in SUPPORTED:
            raise ConfigError(
                f"base is a {config.model_type}, not one of {', '.join(SUPPORTED)}; give another"
            )
        self.hf: Any = hf
        self.hidden_size: int = config.text_config.hidden_size
        self.num_heads: int = config.text_config.num_attention_heads
        self.merge: int = config.vision_config.spatial_merge_size
        self.merged_patch: int = config.vision_config.patch_size * self.merge
        self.placeholder_id: int = config.video_token_id  # videos are fed as images: it is free
        self.end_ids: list[int] = _end_ids(hf)
        # Transformers fills what a call leaves open from here: only the end tokens are to count.
        hf.generation_config = GenerationConfig(eos_token_id=self.end_ids or None)
        hf.model.register_forward_pre_hook(_take_added, with_kwargs=True)
        for i, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(_Adder(i), with_kwargs=True)

    @property
    def tower(self) -> nn.Module:
        """Vision tower with its merger."""
        return self.hf.model.visual

    @property
    def language_model(self) -> nn.Module:
        return self.hf.model.language_model

    @property
    def lm_head(self) -> nn.Module:
        return self.hf.lm_head

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers of the language model."""
        return list(self.hf.model.language_model.layers)

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    def image_tokens(
        self, pixel_values_PC: Tensor, image_grid_thw_I3: Tensor
    ) -> tuple[Tensor, ...]:
        """The vision tower's merged tokens, for each image (n, (1 + K) * H)."""
        out = self.hf.get_image_features(pixel_values_PC, image_grid_thw_I3, return_dict=True)
        levels = getattr(out, "deepstack_features", None) or []
        return tuple(
            torch.cat(parts, dim=-1) for parts in zip(out.pooler_output, *levels, strict=True)
        )

    def inputs(
        self,
        *,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        is_image_BT: Tensor,
        image_grid_thw_I3: Tensor | None,
        image_tokens: Sequence[Tensor],
        added: Sequence[Added],
    ) -> dict[str, Any]:
        """Arguments of the Transformers model's forward and generate.

        Args:
            image_tokens: as `image_tokens` gives them, or with the first H values of each token
                replaced.
            added: what decoder layers get besides.
        """
        outputs: dict[str, Any] = {}
        if image_tokens:
            outputs["image"] = self._tower_output(image_tokens)
        if added:
            outputs[_ADDED] = tuple(added)
        return {
            "input_ids": input_ids_BT,
            "attention_mask": attention_mask_BT,
            "mm_token_type_ids": is_image_BT,
            "image_grid_thw": image_grid_thw_I3,
            "mm_encoder_outputs": outputs,
        }

    def _tower_output(self, image_tokens: Sequence[Tensor]) -> BaseModelOutputWithPooling:
        parts = [x.split(self.hidden_size, dim=-1) for x in image_tokens]
        merged, *levels = (tuple(level) for level in zip(*parts, strict=True))
        if not levels:
            return BaseModelOutputWithPooling(pooler_output=merged)  # pyright: ignore[reportArgumentType]
        return BaseModelOutputWithDeepstackFeatures(pooler_output=merged, deepstack_features=levels)  # pyright: ignore[reportArgumentType]

    def logits(self, inputs: dict[str, Any], logits_to_keep: int | Tensor = 0) -> Tensor:
        """(B, T, vocabulary), or of the last or the named positions only."""
        return self.hf(**inputs, logits_to_keep=logits_to_keep, use_cache=False).logits

    def generate(
        self,
        inputs: dict[str, Any],
        *,
        max_new_tokens: int,
        streamer: Any = None,
    ) -> Tensor:
        """Greedy continuation, prompt included; (B, T + new), padded with the end token.

        Of the base's own generation settings only the end tokens count: sampling and repetition
        penalties, which published ones have, would change answers; so would any other.
        """
        greedy = GenerationConfig(
            do_sample=False, num_beams=1, use_cache=True,
            max_new_tokens=max_new_tokens, eos_token_id=self.end_ids or None,
            pad_token_id=self.end_ids[0] if self.end_ids else 0,
        )  # fmt: skip
        return self.hf.generate(**inputs, generation_config=greedy, streamer=streamer)

    def checkpoint_activations(self) -> None:
        """In training the decoder layers' activations are computed again instead of kept."""
        self.hf.model.language_model.activation_checkpointing_enable()

    def language_state(self) -> dict[str, Tensor]:
        """Weights of the language model by their names in Transformers, without what is tied."""
        tied = self.lm_head.weight is self.hf.get_input_embeddings().weight
        wanted = ("model.language_model.",) if tied else ("model.language_model.", "lm_head.")
        return {name: x for name, x in self.hf.state_dict().items() if name.startswith(wanted)}


def _end_ids(hf: PreTrainedModel) -> list[int]:
    """Of the generation settings, or else of the language model's configuration."""
    config: Any = hf.config
    end: Any = hf.generation_config.eos_token_id if hf.generation_config else None
    end = config.text_config.eos_token_id if end is None else end
    found: list[Any] = list(end or ()) if isinstance(end, list | tuple | type(None)) else [end]
    if not all(type(one) is int for one in found):
        raise ConfigError(f"base ends its answers with {found}, no token ids; correct its files")
    return found


def _take_added(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before the multimodal model: what layers get goes on to them as an ordinary argument, which
    activation checkpointing keeps for the second forward."""
    outputs = kwargs.get("mm_encoder_outputs") or {}
    if _ADDED in outputs:
        rest = {name: value for name, value in outputs.items() if name != _ADDED}
        kwargs = {**kwargs, "mm_encoder_outputs": rest, _ADDED: outputs[_ADDED]}
    return args, kwargs


def load_base(
    where: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> QwenBase:
    """A base from a folder or URL in the form of Hugging Face, or by its id there.

    Every tensor must be there and fit: Transformers would fill what is missing with noise.

    Args:
        dtype: of the weights. Give it here: `.to(dtype)` afterwards would also round the rotary
            frequencies, which stay float32 here.

    Raises:
        TeacherError: nothing is there, or it cannot be fetched.
        WeightsError: not a supported base, damaged, or tensors that do not fit (all are named).
    """
    values = load_json(where, "config.json")
    kind = None if values is None else values.get("model_type")
    if kind not in SUPPORTED:
        raise WeightsError(
            f"{where}: config.json is missing or names model_type {kind!r}, not one of"
            f" {', '.join(SUPPORTED)}; give a folder or id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    with local_copy(where) as place, _quiet():
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                place, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
                use_safetensors=True,  # a pickle may run code
            )  # fmt: skip
            hf, report = loaded
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{where}: not a readable base ({reason}); fetch it again"
            ) from error
    problems = [f"missing {name}" for name in sorted(report["missing_keys"])]
    problems += [f"unexpected {name}" for name in sorted(report["unexpected_keys"])]
    problems += [
        f"{name} has shape {tuple(given)}, expected {tuple(wanted)}"
        for name, given, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} tensors do not fit its config.json:"
            f" {'; '.join(fold(problems))}; fetch it again"
        )
    return QwenBase(hf).to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Transformers' bar and table: what does not fit becomes an error of ours."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def local_copy(where: str | Path) -> Iterator[str]:
    """A folder or Hugging Face id as it is; of a URL's files a copy that lasts as long as loading
    does."""
    if storage.is_local(where) or not storage.exists(where):
        yield str(where).removeprefix("file://")
        return
    with TemporaryDirectory(prefix="spa3r-base-") as folder:
        for name in storage.list_names(where):
            target = Path(folder) / name
            with storage.open_read(storage.join(where, name)) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 24)
        yield folder


class _Adder:
    """Before a decoder layer: adds its rows to the hidden states."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if _ADDED not in kwargs:
            return args, kwargs
        rest = {name: value for name, value in kwargs.items() if name != _ADDED}
        hidden_BTH, *others = args
        for added in kwargs[_ADDED]:
            if added.layer == self.layer:
                hidden_BTH = _plus(hidden_BTH, added)
        return (hidden_BTH, *others), rest


def _plus(hidden_BTH: Tensor, added: Added) -> Tensor:
    rows_NH = added.rows_NH.to(hidden_BTH.dtype)
    if added.mask_BT is None:
        return hidden_BTH + rows_NH
    mask_BT = added.mask_BT
    grown = hidden_BTH.shape[1] - mask_BT.shape[1]  # generation without a cache
    mask_BT1 = nn.functional.pad(mask_BT, (0, grown)).unsqueeze(-1)
    return hidden_BTH + torch.zeros_like(hidden_BTH).masked_scatter(mask_BT1, rows_NH)
