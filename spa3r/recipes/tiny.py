"""The embedded default: learns space on a laptop, from nothing downloaded."""

from spa3r.config import (
    ClipSpec,
    IngestSpec,
    LossConfig,
    ModelConfig,
    Recipe,
    TeacherSpec,
    TrainConfig,
)


def tiny() -> Recipe:
    """The published architecture at width 192, taught by the weight-free `rgbd` teacher.

    Images 224 x 168 in patches of 28 (6 x 8 tokens a view), clips of 4, 6 and 8 views with half as
    context, tokens standardised per channel (docs/models.md says why).

    Command: spa3r demo.
    Hardware: 2 CPU cores.
    Hours: 0.05.
    Metric: the field gate on 12 unseen rooms: geometric R2 above all five controls.
    """
    return Recipe(
        name="tiny",
        ingest=IngestSpec(width=224, multiple=28),
        clips=ClipSpec(view_counts=(4, 6, 8), gap=(1, 3), clips_per_scene=24, mirror=True),
        teacher=TeacherSpec(
            geometric="rgbd",
            semantic="labels",
            cameras="dataset",
            patch_size=28,
            width=256,
            semantic_width=64,
        ),
        model=ModelConfig(
            geo_width=256,
            sem_width=64,
            width=192,
            num_latents=64,
            encoder_layers=3,
            decoder_layers=3,
            num_heads=6,
            patch_size=28,
            standardise=True,
        ),
        loss=LossConfig(kind="smooth_l1", views="targets"),
        train=TrainConfig(
            steps=600,
            lr=1e-3,
            min_lr=2e-5,
            warmup_steps=100,
            weight_decay=1e-4,
            betas=(0.9, 0.95),
            views_per_batch=24,
            batches_per_step=2,
            precision="float32",
            validate_every=200,
            validate_scenes=4,
            checkpoint_every=200,
            log_every=10,
        ),
        eval_clips=ClipSpec(view_counts=(8,), gap=(1, 3), clips_per_scene=4, seed=1),
    )
