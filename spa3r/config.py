"""Configuration: frozen, keyword-only dataclasses; a contradiction raises ConfigError at once.

An experiment is a named function in `spa3r/recipes` that returns a full `Recipe`. Everything here
is plain data (no torch), turns into JSON and back without loss, and has one content hash.
"""

from dataclasses import dataclass, field
from typing import Literal

from spa3r.loop_config import LoopConfig, at_least
from spa3r.plain import config_hash, require, to_dict


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
        require(self.multiple > 0, f"multiple must be positive, got {self.multiple}")
        require(
            self.width > 0 and self.width % self.multiple == 0,
            f"working width {self.width} is not a positive multiple of {self.multiple}",
        )
        require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")
        require(self.frames_per_second >= 0, "frames_per_second must not be negative")
        require(not self.frames_per_second or self.stride == 1, "give frames_per_second or stride")
        require(self.max_frames >= 0, f"max_frames must not be negative, got {self.max_frames}")
        require(1 <= self.jpeg_quality <= 100, f"jpeg_quality {self.jpeg_quality} not in 1..100")
        require(self.min_sharpness >= 0, "min_sharpness must not be negative")
        require(0 < self.max_clipped_share <= 1, "max_clipped_share must lie in (0, 1]")
        require(0 <= self.min_depth_share <= 1, "min_depth_share must lie in 0..1")
        require(0 < self.max_drop_share <= 1, "max_drop_share must lie in (0, 1]")
        require(self.min_frames >= 1, "min_frames must be at least 1")


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
    dataset_gaps: tuple[tuple[str, int, int], ...] = ()
    """(dataset, smallest, largest) of datasets whose gap is another."""
    clips_per_scene: int = 64
    mirror: bool = False
    """Draw half of the clips from the mirrored scene (image, K and poses flipped together)."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.view_counts), "view_counts must not be empty")
        for ratio in self.stages:
            require(0 < ratio < 1, f"a mask ratio must lie in (0, 1), got {ratio}")
        for gap in (self.gap, *((low, high) for _, low, high in self.dataset_gaps)):
            require(len(gap) == 2, f"gap must be two numbers, got {gap}")
            require(1 <= gap[0] <= gap[1], f"gap {gap} is not an increasing pair >= 1")
        require(
            self.clips_per_scene >= len(self.stages),
            f"{len(self.stages)} mask ratios need as many clips per scene, got"
            f" clips_per_scene {self.clips_per_scene}",
        )
        for n in self.view_counts:
            for ratio in self.stages:
                context = int(n * (1 - ratio))
                require(
                    1 <= context < n,
                    f"{n} views at mask ratio {ratio} leave {context} context views;"
                    " at least one context and one target view are needed",
                )

    def gap_of(self, dataset: str) -> tuple[int, int]:
        """Smallest and largest step between neighbouring views of a scene of this dataset."""
        others = {name: (low, high) for name, low, high in self.dataset_gaps}
        return others.get(dataset, self.gap)

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
    dtype: Literal["float16", "bfloat16", "int8"] = "float16"
    """How tokens are stored; teachers in the loop cast to it too, so that every source gives the
    same numbers. int8 has a scale per token and per channel (spa3r/data/quantise.py); it is only
    stored: in the loop it means float16."""
    patch_size: int = 14
    width: int = 2048
    """Width of a geometric token."""
    semantic_width: int = 1024
    linguistic_width: int = 1024
    seed: int = 0
    """Of the fixed random projections of `rgbd` and `labels`."""

    def __post_init__(self) -> None:
        at_least(self, 1, "patch_size", "width", "semantic_width", "linguistic_width")
        require(
            not (self.geometric == "rgbd" and self.cameras == "teacher"),
            "the rgbd teacher predicts no cameras: set cameras='dataset'",
        )
        require(
            not (self.geometric == "rgbd" and self.passes == "two_pass"),
            "the rgbd teacher looks at each view alone: two_pass has no meaning",
        )
        require(
            not (self.geometric == "rgbd" and self.layer != -1),
            f"the rgbd teacher has no layers, got layer {self.layer}: set geometric='vggt'",
        )
        require(
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
        at_least(self, 1, "geo_width", "sem_width", "lang_width", "width", "num_heads")
        at_least(self, 1, "num_latents", "encoder_layers", "decoder_layers")
        at_least(self, 1, "mlp_ratio", "patch_size")
        at_least(self, 0, "num_registers")
        require(self.rope_base > 0, f"rope_base must be positive, got {self.rope_base}")
        require(
            self.width % self.num_heads == 0,
            f"width {self.width} is not divisible by {self.num_heads} heads",
        )
        head = self.width // self.num_heads
        require(head % 8 == 0, f"head width {head} is not a multiple of 8 (PRoPE and RoPE)")
        require(
            self.geometric or self.semantic or self.linguistic,
            "no target: set geometric, semantic or linguistic",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Paper eq. 13; reference.md 2.1.8 and 2.2."""

    kind: Literal["l1", "smooth_l1"] = "l1"
    views: Literal["targets", "all"] = "targets"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the training targets come from. Held-out targets are always stored."""

    source: Literal["cached", "packed", "online", "hybrid"] = "cached"
    """`cached`: read clip by clip from the scenes' files. `packed`: the same targets, from
    sequential shards shuffled across scenes (`spa3r pack`). `online`: teachers in the loop.
    `hybrid`: per-frame tokens are read, geometric ones computed in the loop. docs/training.md says
    when each wins."""
    poisoned: Literal["stop", "drop"] = "stop"
    """A clip whose stored targets are damaged or not finite stops the run, or is left out of its
    batch and counted."""
    statistics_clips: int = 256
    """Clips from which `online` and `hybrid` take the statistics of geometric tokens."""

    @property
    def stored(self) -> Literal["clips", "frames", "statistics"]:
        """What `spa3r targets` keeps of the training clips: all, per-frame tokens, or numbers."""
        if self.source == "online":
            return "statistics"
        return "frames" if self.source == "hybrid" else "clips"

    def __post_init__(self) -> None:
        at_least(self, 1, "statistics_clips")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(LoopConfig):
    """Optimisation of pre-training."""

    views_per_batch: int = 24
    """View budget of one micro-batch: views_per_batch // n clips of n views."""
    validate_scenes: int = 16

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        at_least(self, 1, "validate_scenes")
        require(self.views_per_batch >= 2, "a batch needs two views")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment, whole. Its parts must agree; `config_hash` names it."""

    name: str
    ingest: IngestSpec = field(default_factory=IngestSpec)
    clips: ClipSpec = field(default_factory=ClipSpec)
    teacher: TeacherSpec = field(default_factory=TeacherSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
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
            require(ours == theirs, f"{what}: teacher has {ours}, model expects {theirs}")
        frame_targets = (
            ("semantic", m.semantic, t.semantic, t.semantic_width, m.sem_width),
            ("linguistic", m.linguistic, t.linguistic, t.linguistic_width, m.lang_width),
        )
        for kind, wanted, source, ours, theirs in frame_targets:
            if wanted:
                require(source != "none", f"model.{kind} is on but teacher.{kind} is 'none'")
                require(ours == theirs, f"{kind} width: teacher has {ours}, model expects {theirs}")
        require(
            self.ingest.multiple % t.patch_size == 0,
            f"images are cropped to a multiple of {self.ingest.multiple}, which patches of"
            f" {t.patch_size} do not tile",
        )
        for n in self.clips.view_counts:
            require(
                n <= self.train.views_per_batch,
                f"a clip of {n} views exceeds the budget of {self.train.views_per_batch}",
            )
