"""What every training run has in common, whatever it trains."""

from dataclasses import dataclass
from typing import Any, Literal

from spa3r.plain import require


def at_least(config: Any, least: int, *names: str) -> None:
    """Raises ConfigError unless these fields have at least that value."""
    for name in names:
        value = getattr(config, name)
        require(value >= least, f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Optimisation and its bookkeeping: what the one training loop needs to know."""

    steps: int = 80_000
    lr: float = 1e-3
    min_lr: float = 1e-4
    """End of the cosine."""
    warmup_steps: int = 0
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    batches_per_step: int = 16
    """Micro-batches of one optimizer step, over all workers: each does its share of them, so a step
    is the same whatever the number of workers."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast; falls back to float32 nowhere silently: a device without bf16 is an error."""
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    """Weights and optimizer on every worker, or cut up among them."""
    compile: bool = False
    """torch.compile of the student, and of VGGT where it is in the loop."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which the encoder then has; 0: off."""
    seed: int = 0
    max_loss_ratio: float = 3.0
    """Stop when the mean loss of a log window exceeds this many times the lowest one before; 0:
    never."""
    validate_every: int = 1000
    """Steps between validations on held-out data; 0: none."""
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    """The newest ones that are kept."""
    keep_best: int = 1
    """Those with the best validation that are kept besides. Where validate_every and
    checkpoint_every fall on different steps, a validation among the best saves too."""
    keep_every: int = 0
    """Keep every checkpoint at a multiple of this many steps too; 0: none."""
    log_every: int = 50

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "log_every", "batches_per_step")
        at_least(self, 1, "checkpoint_every", "keep_checkpoints")
        at_least(self, 0, "weight_decay", "validate_every", "keep_best", "keep_every")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be positive, got {value}")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas must be two numbers in [0, 1), got {self.betas}",
        )
        require(0 <= self.ema < 1, f"ema must lie in [0, 1), got {self.ema}")
        require(
            self.max_loss_ratio == 0 or self.max_loss_ratio > 1,
            f"max_loss_ratio must be 0 or more than 1, got {self.max_loss_ratio}",
        )
        require(0 <= self.warmup_steps < self.steps, "warmup_steps must lie in 0..steps-1")
        require(0 <= self.min_lr <= self.lr, "min_lr must lie in 0..lr")
