"""Configuration: frozen, keyword-only dataclasses; a contradiction raises ConfigError at once.

An experiment is a named function in `spa3r/recipes` that returns a full `Recipe`. Everything here
is plain data (no torch), turns into JSON and back without loss, and has one content hash.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from spa3r.errors import ConfigError

C = TypeVar("C")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= least, f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestSpec:
    """How one scan becomes one shard."""

    width: int = 518
    """Working width in pixels; the height follows the aspect ratio, and is at most the width."""
    multiple: int = 14
    """Width and height are centre-cropped to a multiple of this (the teacher's patch size)."""
    stride: int = 1
    """Keep every stride-th frame of the scan."""
    frames_per_second: float = 0.0
    """Of a video: keep so many instead of every stride-th; 0: by stride."""
    max_frames: int = 0
    """Keep at most this many of them, picked by `choice`; 0: all."""
    choice: Literal["uniform", "sharpest", "coverage"] = "uniform"
    """Evenly spaced; the sharpest of each of max_frames equal windows; or greedily those that see
    most of what no earlier one saw (needs depth, poses and intrinsics)."""
    jpeg_quality: int = 95
    min_sharpness: float = 0.0
    """Drop a frame whose sharpness (variance of the Laplacian, 8-bit grey at working size) is
    below this; 0 keeps all."""
    max_clipped_share: float = 1.0
    """Drop a frame when more than this share of its pixels is black or blown out; 1 keeps all."""
    min_depth_share: float = 0.02
    """Drop a frame with depth when less than this share of its pixels is measured."""
    max_drop_share: float = 0.9
    """A scene that loses more than this share of the frames it looked at is an error."""
    min_frames: int = 1
    """A scene with fewer kept frames is an error."""
    benchmark_scenes: Literal["keep_out", "allow"] = "keep_out"
    """Scenes that benchmarks ask about never get the split "train", whatever the lists say; "allow"
    lifts that, and the manifest records it."""

    def shard_hash(self) -> str:
        """Identity of the settings that shape a shard: not of those that only judge the result."""
        shaping = to_dict(self)
        for judging in ("max_drop_share", "min_frames", "benchmark_scenes"):
            del shaping[judging]
        return config_hash(shaping)

    def __post_init__(self) -> None:
        _require(self.multiple > 0, f"multiple must be positive, got {self.multiple}")
        _require(
            self.width > 0 and self.width % self.multiple == 0,
            f"working width {self.width} is not a positive multiple of {self.multiple}",
        )
        _require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")
        _require(self.frames_per_second >= 0, "frames_per_second must not be negative")
        _require(not self.frames_per_second or self.stride == 1, "give frames_per_second or stride")
        _require(self.max_frames >= 0, f"max_frames must not be negative, got {self.max_frames}")
        _require(1 <= self.jpeg_quality <= 100, f"jpeg_quality {self.jpeg_quality} not in 1..100")
        _require(self.min_sharpness >= 0, "min_sharpness must not be negative")
        _require(0 < self.max_clipped_share <= 1, "max_clipped_share must lie in (0, 1]")
        _require(0 <= self.min_depth_share <= 1, "min_depth_share must lie in 0..1")
        _require(0 < self.max_drop_share <= 1, "max_drop_share must lie in (0, 1]")
        _require(self.min_frames >= 1, "min_frames must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """How clips (ordered view tuples with a context/target partition) are drawn from a scene."""

    view_counts: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11, 12)
    mask_ratio: float = 0.5
    """Share of target views: int(n * (1 - ratio)) views are context, view 0 always among them."""
    mask_schedule: tuple[float, ...] = ()
    """Curriculum: mask ratios of equal shares of the training, in order; empty: mask_ratio all the
    way. Every scene gets clips of every stage."""
    gap: tuple[int, int] = (2, 6)
    """Smallest and largest step between neighbouring views, in kept frames."""
    clips_per_scene: int = 64
    mirror: bool = False
    """Draw half of the clips from the mirrored scene (image, K and poses flipped together)."""
    seed: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.view_counts), "view_counts must not be empty")
        for ratio in self.stages:
            _require(0 < ratio < 1, f"a mask ratio must lie in (0, 1), got {ratio}")
        _require(len(self.gap) == 2, f"gap must be two numbers, got {self.gap}")
        _require(1 <= self.gap[0] <= self.gap[1], f"gap {self.gap} is not an increasing pair >= 1")
        _require(
            self.clips_per_scene >= len(self.stages),
            f"{len(self.stages)} mask ratios need as many clips per scene, got"
            f" clips_per_scene {self.clips_per_scene}",
        )
        for n in self.view_counts:
            for ratio in self.stages:
                context = int(n * (1 - ratio))
                _require(
                    1 <= context < n,
                    f"{n} views at mask ratio {ratio} leave {context} context views;"
                    " at least one context and one target view are needed",
                )

    @property
    def stages(self) -> tuple[float, ...]:
        """Mask ratios in the order of training; one where there is no curriculum."""
        return self.mask_schedule or (self.mask_ratio,)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """Which frozen networks (or, for `rgbd`, which fixed functions) make the targets."""

    geometric: Literal["vggt", "rgbd"] = "vggt"
    semantic: Literal["dinov3", "dinov2", "labels", "none"] = "dinov3"
    """`dinov2` is an explicit alternative (its weights are not gated), never a fallback."""
    linguistic: Literal["clip", "none"] = "none"
    """Language-aligned features of each frame (paper Table 4)."""
    geometric_uri: str = "facebook/VGGT-1B"
    """File (.safetensors, .pt), folder or Hugging Face id; unused by `rgbd`."""
    semantic_uri: str = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    """File, folder or Hugging Face id; unused by `labels`."""
    linguistic_uri: str = "openai/clip-vit-large-patch14"
    """Folder or Hugging Face id."""
    layer: int = -1
    """Aggregator layer whose tokens are the geometric targets and the encoder's input; negative
    counts from the last, as indices do."""
    qk_norm: Literal["layernorm", "rms"] = "layernorm"
    """QK norm of VGGT's global blocks: the true one, or the authors' release (reference 2.2 #8)."""
    passes: Literal["asymmetric", "two_pass"] = "asymmetric"
    """One masked pass (paper eq. 5), or a context-only and a full pass (released configuration)."""
    cameras: Literal["teacher", "dataset"] = "teacher"
    metric_scale: bool = False
    """With cameras="teacher": metres per unit from the dataset's poses, carried with targets and
    latents. With cameras="dataset" the scale is known anyway."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Stored dtype of the tokens; `online` targets are cast to it too."""
    patch_size: int = 14
    width: int = 2048
    """Width of a geometric token."""
    semantic_width: int = 1024
    linguistic_width: int = 1024
    seed: int = 0
    """Of the fixed random projections of `rgbd` and `labels`."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "patch_size", "width", "semantic_width", "linguistic_width")
        _require(
            not (self.geometric == "rgbd" and self.cameras == "teacher"),
            "the rgbd teacher predicts no cameras: set cameras='dataset'",
        )
        _require(
            not (self.geometric == "rgbd" and self.passes == "two_pass"),
            "the rgbd teacher looks at each view alone: two_pass has no meaning",
        )
        _require(
            not (self.geometric == "rgbd" and self.layer != -1),
            f"the rgbd teacher has no layers, got layer {self.layer}: set geometric='vggt'",
        )
        _require(
            not (self.geometric == "vggt" and self.patch_size != 14),
            f"VGGT has patches of 14 pixels, got patch_size {self.patch_size}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The student (paper 3.2; reference.md 2.1). Defaults: the published size."""

    geo_width: int = 2048
    sem_width: int = 1024
    lang_width: int = 1024
    width: int = 768
    num_latents: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 12
    mlp_ratio: int = 4
    num_registers: int = 4
    rope_base: float = 100.0
    patch_size: int = 14
    camera: Literal["prope", "plucker"] = "prope"
    geometric: bool = True
    """Predict geometric targets."""
    semantic: bool = True
    """Predict semantic targets."""
    linguistic: bool = False
    """Predict linguistic (CLIP) targets."""
    depth_probe: Literal["hidden", "features"] = "hidden"
    """What the depth probe reads, detached: the decoder's hidden state (release) or the predicted
    features side by side (paper)."""
    standardise: bool = False
    """Standardise teacher tokens per channel, input and target alike, by training statistics kept
    as buffers (not in the paper; see docs/models.md)."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "geo_width", "sem_width", "lang_width", "width", "num_heads")
        _at_least(self, 1, "num_latents", "encoder_layers", "decoder_layers")
        _at_least(self, 1, "mlp_ratio", "patch_size")
        _at_least(self, 0, "num_registers")
        _require(self.rope_base > 0, f"rope_base must be positive, got {self.rope_base}")
        _require(
            self.width % self.num_heads == 0,
            f"width {self.width} is not divisible by {self.num_heads} heads",
        )
        head = self.width // self.num_heads
        _require(head % 8 == 0, f"head width {head} is not a multiple of 8 (PRoPE and RoPE)")
        _require(
            self.geometric or self.semantic or self.linguistic,
            "no target: set geometric, semantic or linguistic",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Paper eq. 13; reference.md 2.1.8 and 2.2."""

    kind: Literal["l1", "smooth_l1"] = "l1"
    views: Literal["targets", "all"] = "targets"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Optimisation and its bookkeeping."""

    steps: int = 80_000
    lr: float = 1e-3
    min_lr: float = 1e-4
    """End of the cosine."""
    warmup_steps: int = 0
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    accumulate: int = 2
    views_per_batch: int = 24
    """View budget of one worker's micro-batch: views_per_batch // n clips of n views."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast; falls back to float32 nowhere silently: a device without bf16 is an error."""
    seed: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 50

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "log_every")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            _require(value > 0, f"{name} must be positive, got {value}")
        _at_least(self, 0, "weight_decay")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas must be two numbers in [0, 1), got {self.betas}",
        )
        _require(0 <= self.warmup_steps < self.steps, "warmup_steps must lie in 0..steps-1")
        _require(0 <= self.min_lr <= self.lr, "min_lr must lie in 0..lr")
        _require(self.views_per_batch >= 2 and self.accumulate >= 1, "empty batches")
        _require(self.checkpoint_every >= 1 and self.keep_checkpoints >= 1, "no checkpoints kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment, whole. Its parts must agree; `config_hash` names it."""

    name: str
    ingest: IngestSpec = field(default_factory=IngestSpec)
    clips: ClipSpec = field(default_factory=ClipSpec)
    teacher: TeacherSpec = field(default_factory=TeacherSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval_clips: ClipSpec = field(
        default_factory=lambda: ClipSpec(view_counts=(8,), clips_per_scene=4, seed=1)
    )

    def __post_init__(self) -> None:
        t, m = self.teacher, self.model
        pairs = (
            ("patch size", t.patch_size, m.patch_size),
            ("geometric width", t.width, m.geo_width),
        )
        for what, ours, theirs in pairs:
            _require(ours == theirs, f"{what}: teacher has {ours}, model expects {theirs}")
        frame_targets = (
            ("semantic", m.semantic, t.semantic, t.semantic_width, m.sem_width),
            ("linguistic", m.linguistic, t.linguistic, t.linguistic_width, m.lang_width),
        )
        for kind, wanted, source, ours, theirs in frame_targets:
            if wanted:
                _require(source != "none", f"model.{kind} is on but teacher.{kind} is 'none'")
                _require(
                    ours == theirs, f"{kind} width: teacher has {ours}, model expects {theirs}"
                )
        _require(
            self.ingest.multiple % t.patch_size == 0,
            f"images are cropped to a multiple of {self.ingest.multiple}, which patches of"
            f" {t.patch_size} do not tile",
        )
        for n in self.clips.view_counts:
            _require(
                n <= self.train.views_per_batch,
                f"a clip of {n} views exceeds the budget of {self.train.views_per_batch}",
            )


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-ready dictionary of a configuration dataclass (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """Inverse of `to_dict`. Unknown keys and values of the wrong type raise ConfigError."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    _require(not unknown, f"{cls.__name__}: unknown settings {unknown}")
    arguments = {key: _convert(cls, key, hints[key], value) for key, value in values.items()}
    return cls(**arguments)


def override(config: C, values: Mapping[str, Any]) -> C:
    """Copy with dotted overrides, e.g. {"train.steps": 40}: for debugging and tests, logged.

    All of them are set before the result is checked, so their order does not matter.
    """
    plain = to_dict(config)
    for dotted, value in values.items():
        *path, name = dotted.split(".")
        table: Any = plain
        for part in path:
            table = table.get(part) if isinstance(table, dict) else None
        _require(
            isinstance(table, dict) and name in table,
            f"{type(config).__name__} has no setting {dotted!r}",
        )
        table[name] = value
    return from_dict(type(config), plain)


def config_hash(*configs: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of dataclasses or plain data."""
    plain = [to_dict(c) if dataclasses.is_dataclass(c) else c for c in configs]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _convert(cls: type, key: str, hint: Any, value: Any) -> Any:
    """Checks and converts one JSON value to the field's declared type."""
    where = f"{cls.__name__}.{key}"
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        _require(isinstance(value, Mapping), f"{where} must be a table, got {value!r}")
        return from_dict(typing.cast(type, hint), value)
    if origin is Literal:
        choices = typing.get_args(hint)
        _require(value in choices, f"{where} must be one of {list(choices)}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}")
        inside = typing.get_args(hint)
        if len(inside) == 2 and inside[1] is Ellipsis:
            inside = (inside[0],) * len(value)
        _require(
            len(value) == len(inside), f"{where} must have {len(inside)} entries, got {value!r}"
        )
        pairs = enumerate(zip(inside, value, strict=True))
        return tuple(_convert(cls, f"{key}[{i}]", kind, one) for i, (kind, one) in pairs)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    matches = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    _require(matches, f"{where} must be {hint.__name__}, got {value!r}")
    return value
