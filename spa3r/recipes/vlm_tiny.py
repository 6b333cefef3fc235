"""Spa3-VLM on generated rooms: a tiny Qwen2.5-VL and its tokenizer, both made here."""

from dataclasses import replace

from spa3r.tune_config import FusionConfig, MixtureConfig, TuneConfig, TuneRecipe, VlmConfig


def vlm_tiny() -> TuneRecipe:
    """The demo's last stage: a model of three layers that nobody trained before, on latents of the
    `rgbd`-taught encoder, for a short while.

    Images 224 x 168, 12 tokens each. `metric_scale` tells the model metres, which latents do not
    know (docs/vlm.md).

    Command: spa3r demo (or spa3r questions, then spa3r tune --recipe vlm-tiny).
    Hardware: 2 CPU cores.
    Hours: 0.02.
    Metric: the VSI-Bench scores of generated questions about unseen rooms beside three controls.
        So short a training may well not pass the gate; `vlm-learn` is meant to.
    """
    return TuneRecipe(
        name="vlm-tiny",
        vlm=VlmConfig(
            base="tiny",
            fusion=FusionConfig(metric_scale=True),
            image_width=224,
            image_multiple=56,
            max_frames=8,
        ),
        mixture=MixtureConfig(
            weights=(("rooms", 1.0),),
            frames=(8, 8),
            max_tokens=1024,
            max_images=8,
            blind_share=0.1,
        ),
        train=TuneConfig(
            steps=120,
            lr=1e-3,
            min_lr=1e-5,
            warmup_steps=10,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            batches_per_step=2,
            tokens_per_batch=4096,
            precision="float32",
            activation_checkpointing=False,
            features="latents_and_images",
            validate_every=60,
            validate_conversations=32,
            checkpoint_every=60,
            log_every=10,
            max_loss_ratio=0,
        ),
    )


def vlm_debug() -> TuneRecipe:
    """`vlm-tiny` for a few steps, to see that it runs; its answers mean nothing.

    Command: spa3r demo --recipe debug --rooms 4 --val-rooms 2.
    Hardware: 1 CPU core.
    Hours: 0.005.
    Metric: none.
    """
    base = vlm_tiny()
    return replace(
        base,
        name="vlm-debug",
        vlm=replace(base.vlm, max_frames=2),
        mixture=replace(base.mixture, frames=(2, 2)),
        train=replace(
            base.train,
            steps=4,
            warmup_steps=1,
            batches_per_step=1,
            tokens_per_batch=1024,
            validate_every=2,
            validate_conversations=2,
            checkpoint_every=2,
            log_every=1,
        ),
    )


def vlm_learn() -> TuneRecipe:
    """`vlm-tiny` for longer, on more rooms: here geometry has to pay.

    Command: make learn-vlm.
    Hardware: 2 CPU cores.
    Hours: 1 with its encoder.
    Metric: on the numerical tasks of unseen rooms, the model minus the blind and minus the
        shuffled-latent control: lower 95 % bounds above 0.
    """
    base = vlm_tiny()
    return replace(
        base,
        name="vlm-learn",
        train=replace(
            base.train,
            steps=700,
            warmup_steps=50,
            validate_every=100,
            checkpoint_every=100,
            log_every=20,
        ),
    )
