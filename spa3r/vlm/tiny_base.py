"""A tiny Qwen2.5-VL with a tokenizer of its own: the base of tests, of the demo, and of nothing
else.

The folder it writes is an ordinary Transformers one, so everything that reads the published model
reads this one. The weights are drawn, not learnt: there is no tiny Qwen2.5-VL to start from.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.normalizers import NFC
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from spa3r.errors import ConfigError
from spa3r.vlm.quiet import without_bars

SPECIAL: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""Qwen's special tokens, in its order."""
# How Qwen cuts text before the merges: words with their space, every digit alone, punctuation.
_PIECES: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE: Final = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

HIDDEN: Final = 128
LAYERS: Final = 3
HEADS: Final = 4
VOCABULARY: Final = 1024
MERGE: Final = 2


def build_tiny_base(
    folder: str | Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    image_multiple: int = 28,
) -> Path:
    """Writes the base to a local folder: config, weights, tokenizer, image processor.

    Args:
        texts: what the tokenizer is trained on. It is byte-level, so any text can be written in it.
        vocabulary: tokens at most; `hidden` must be a multiple of 4 heads with 8 channels.
        image_multiple: the side of an image token's square, in pixels (VlmConfig.image_multiple).

    Raises:
        ConfigError: sizes that do not fit one another.
    """
    if vocabulary < 256 + len(SPECIAL) or hidden % (8 * HEADS) or image_multiple % MERGE:
        raise ConfigError(
            f"a tiny base of {vocabulary} tokens, width {hidden} and image multiple"
            f" {image_multiple}: it needs at least {256 + len(SPECIAL)} tokens, a width that"
            f" {8 * HEADS} divides and an image multiple that {MERGE} divides"
        )
    where = Path(folder)
    tokenizer = train_tokenizer(texts, vocabulary=vocabulary)
    patch = image_multiple // MERGE
    config = _config(tokenizer, hidden, layers, patch)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with without_bars():
        model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    Qwen2VLImageProcessorPil(patch_size=patch, merge_size=MERGE).save_pretrained(where)
    return where


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's rules; digits stand one by one, as in Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = NFC()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_frame(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL if t not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _frame(texts: Iterable[str]) -> Iterator[str]:
    """The texts, and the words that the chat form itself needs."""
    yield "system\nYou are a helpful assistant."
    yield "user\n"
    yield "assistant\n"
    yield from texts


def _config(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, patch: int
) -> Qwen2_5_VLConfig:
    def token(name: str) -> int:
        found: Any = tokenizer.convert_tokens_to_ids(name)
        return int(found)

    pairs = hidden // HEADS // 2  # rotary pairs of a head, shared out over time, rows and columns
    side = 3 * pairs // 8
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [pairs - 2 * side, side, side],
        },
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "initializer_range": 0.05,
    }
    vision = {
        "depth": 2,
        "patch_size": patch,
        "spatial_merge_size": MERGE,
        "window_size": 8 * patch,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.05,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
