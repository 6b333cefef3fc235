"""Every stage in seconds, to see that it runs."""

from dataclasses import replace

from spa3r.config import Recipe
from spa3r.recipes.tiny import tiny


def debug() -> Recipe:
    """`tiny` with two narrow layers and few steps; its numbers mean nothing.

    Command: spa3r demo --recipe debug --rooms 4 --val-rooms 2.
    Hardware: 1 CPU core.
    Hours: 0.01.
    Metric: none.
    """
    base = tiny()
    return replace(
        base,
        name="debug",
        clips=replace(base.clips, clips_per_scene=6),
        model=replace(
            base.model, width=32, num_heads=2, num_latents=8, encoder_layers=1, decoder_layers=1
        ),
        train=replace(
            base.train,
            steps=12,
            warmup_steps=2,
            validate_every=6,
            validate_scenes=2,
            checkpoint_every=6,
            log_every=1,
        ),
        eval_clips=replace(base.eval_clips, view_counts=(4,), clips_per_scene=2),
    )
