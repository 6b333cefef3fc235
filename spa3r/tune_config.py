"""Configuration of Spa3-VLM: how geometry enters the language model, and how it is tuned."""

from dataclasses import dataclass, field
from typing import Literal

from spa3r.loop_config import LoopConfig, at_least
from spa3r.plain import require


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """Where and how scene geometry meets the image tokens (paper 3.3; Tables 3 and 5)."""

    kind: Literal["cross_attention", "append", "add", "deep_stack", "none"] = "cross_attention"
    """Residual cross-attention (the paper's); geometry tokens appended to the sequence; added to
    the image tokens after 2x2 merging (VG-LLM); added in the first layers of the language model
    (SpatialStack); or no geometry."""
    source: Literal["latents", "teacher"] = "latents"
    """What enters: the encoder's scene latents, or its teacher's per-view tokens. `add` and
    `deep_stack` need one token for each patch, so `teacher`."""
    form: Literal["paper", "release"] = "paper"
    """Of `cross_attention`: eq. 14-15, or as released, with LayerNorm and gate (reference 2.3)."""
    layers: tuple[int, ...] = (-1,)
    """Aggregator layers whose tokens `teacher` means; `deep_stack` adds the i-th of them in the
    i-th layer of the language model."""
    metric_scale: bool = False
    """Of `cross_attention` on latents: one more key, made of the logarithm of the scene's metres
    per unit. Latents know no metres (not in the paper; docs/vlm.md)."""

    def __post_init__(self) -> None:
        per_patch = self.kind in ("add", "deep_stack")
        require(
            not per_patch or self.source == "teacher",
            f"fusion {self.kind} adds to image tokens one by one: set source='teacher'",
        )
        require(bool(self.layers), "layers must not be empty")
        require(
            self.kind == "deep_stack" or len(self.layers) == 1,
            f"fusion {self.kind} takes one layer of the teacher, got {list(self.layers)}",
        )
        require(
            not self.metric_scale or (self.kind, self.source) == ("cross_attention", "latents"),
            "metric_scale is for cross_attention on latents",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank updates of the language model's linear layers, instead of its whole weights."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", "alpha")
        require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmConfig:
    """The model: a base, the geometry that enters it, and what of it is trained.

    The vision tower and the encoder are always frozen, the fusion is always trained.
    """

    base: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder or Hugging Face id; "tiny": made here, with a tokenizer trained here."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    language: Literal["full", "lora", "frozen"] = "full"
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Used with language="lora"."""
    image_width: int = 504
    """Working width of both towers, in pixels. Both get the very same crop."""
    image_multiple: int = 28
    """Both sides are cropped to a multiple of this: of the encoder's patch and of a merged patch of
    the vision tower."""
    max_frames: int = 32
    """Of a video or scan when questions are answered; evenly spaced."""

    def __post_init__(self) -> None:
        at_least(self, 1, "image_multiple", "max_frames")
        require(
            self.image_width > 0 and self.image_width % self.image_multiple == 0,
            f"image width {self.image_width} is not a positive multiple of {self.image_multiple}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """What is learnt from: instruction sets and how often each is drawn."""

    weights: tuple[tuple[str, float], ...] = (("rooms", 1.0),)
    """(name of an imported or generated instruction set, weight). An epoch takes weight times the
    set's size from it: 0.25 a quarter, 2 all of it twice."""
    frames: tuple[int, int] = (4, 8)
    """Fewest and most frames of a video in training."""
    seconds_per_frame: float = 2.0
    """A video of s seconds gets round(s / seconds_per_frame) frames, within `frames`."""
    max_tokens: int = 16_384
    """A conversation of more tokens is dropped, and counted."""
    max_images: int = 32
    """One of more images is dropped, and counted."""
    blind_share: float = 0.0
    """Share of conversations that are learnt without their images, in every epoch others: then the
    blind control answers as well as the questions alone allow."""
    benchmark_scenes: Literal["keep_out", "allow"] = "keep_out"
    """Conversations about scenes that benchmarks ask about are dropped, and counted."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.weights), "weights must name at least one instruction set")
        names = [name for name, _ in self.weights]
        require(len(set(names)) == len(names), f"an instruction set stands twice in {names}")
        require(all(weight > 0 for _, weight in self.weights), "weights must be positive")
        require(
            1 <= self.frames[0] <= self.frames[1], f"frames {self.frames} is not increasing >= 1"
        )
        require(self.seconds_per_frame > 0, "seconds_per_frame must be positive")
        at_least(self, 1, "max_tokens", "max_images")
        share = self.blind_share
        require(0 <= share < 1, f"blind_share must lie in [0, 1), got {share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(LoopConfig):
    """Optimisation of instruction tuning. Defaults: as published (reference.md 2.3)."""

    steps: int = 0
    """Optimizer steps; 0: as many as `epochs` take."""
    epochs: float = 1.0
    """Of the mixture; read where steps is 0."""
    lr: float = 1e-5
    min_lr: float = 0.0
    warmup_steps: int = 0
    warmup_share: float = 0.03
    """Of all steps; read where warmup_steps is 0."""
    weight_decay: float = 0.01
    batches_per_step: int = 64
    tokens_per_batch: int = 16_384
    """A micro-batch has conversations of similar length, at most so many tokens with padding."""
    activation_checkpointing: bool = True
    features: Literal["latents", "latents_and_images"] = "latents"
    """What is computed once for each video and read in the loop: its latents; or the frozen vision
    tower's tokens too."""
    validate_every: int = 0
    validate_conversations: int = 64

    def __post_init__(self) -> None:
        at_least(self, 0, "steps", "warmup_steps")
        require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        require(0 <= self.warmup_share < 1, "warmup_share must lie in [0, 1)")
        at_least(self, 1, "tokens_per_batch", "validate_conversations")
        if self.steps:
            LoopConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneRecipe:
    """One tuning experiment, whole."""

    name: str
    vlm: VlmConfig = field(default_factory=VlmConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    train: TuneConfig = field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        require(
            self.mixture.max_tokens <= self.train.tokens_per_batch,
            f"a conversation may have {self.mixture.max_tokens} tokens, a micro-batch only"
            f" {self.train.tokens_per_batch}",
        )
