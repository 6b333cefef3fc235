"""AdamW and its learning rate, which is a pure function of the step."""

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from spa3r.loop_config import LoopConfig


def lr_at(step: int, config: LoopConfig) -> float:
    """Learning rate of optimizer step `step` (from 0).

    Linear from lr / warmup_steps up to lr, then half a cosine that would reach min_lr at
    config.steps: without warm-up, torch's CosineAnnealingLR in closed form.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
    return config.min_lr + (config.lr - config.min_lr) * cosine


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Gives every parameter group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_optimizer(model: nn.Module, config: LoopConfig) -> Optimizer:
    """AdamW over all trainable parameters, weight decay on all alike, as published.

    The fused kernel serves CPU and CUDA and gives the same numbers on every run.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    return AdamW(
        parameters,
        lr=lr_at(0, config),
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
