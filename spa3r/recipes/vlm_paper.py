"""Spa3-VLM as the paper tunes it: one recipe for video questions, one for image questions."""

from spa3r.tune_config import FusionConfig, MixtureConfig, TuneConfig, TuneRecipe, VlmConfig


def vlm_vsi() -> TuneRecipe:
    """Instruction tuning on VSI-590K (paper 4.1, Table 1), one epoch: Qwen2.5-VL-3B, residual
    cross-attention adapter (eq. 14-15); adapter and language model trained, both towers frozen.

    The paper states no optimizer; AdamW at 1e-5, warm-up over 3 %, cosine to 0, weight decay 0.01
    and 64 conversations a step are the released script's (reference.md 2.3). Conversations are
    grouped by length here: a micro-batch holds about 8 of 8 frames each, so 8 micro-batches make
    its 64.

    Command: spa3r instruct vsi-590k ANNOTATIONS --media ROOT --name vsi-590k, then spa3r tune
        --recipe vlm-vsi.
    Hardware: 8 GPUs of 80 GB (the paper names none for this stage); SPA3R_TRAIN_WORKERS=8.
    Hours: not stated in the paper and not measured by us.
    Metric: VSI-Bench 58.6 on average (the paper's claim, not reproduced by us); spa3r evaluate
        models:/spa3-vlm@candidate --suite vsi-bench.
    """
    return TuneRecipe(
        name="vlm-vsi",
        mixture=MixtureConfig(weights=(("vsi-590k", 1.0),)),
        train=_published(),
    )


def vlm_images() -> TuneRecipe:
    """Instruction tuning for the image benchmarks (paper 4.1, Table 2): SPAR-234K, LLaVA-Hound-64K
    and VLM-3R's training data, one epoch; all else as `vlm-vsi`.

    The paper names the sets and no shares: each is taken whole, once.

    Command: spa3r instruct (spar, llava-hound and vlm-3r, with the names below), then spa3r tune
        --recipe vlm-images.
    Hardware: as vlm-vsi.
    Hours: not stated in the paper and not measured by us.
    Metric: CV-Bench 75.6, SPAR-Bench 58.4, ViewSpatial 43.9 (the paper's claims, not reproduced by
        us); spa3r evaluate models:/spa3-vlm@candidate --suite cv-bench.
    """
    return TuneRecipe(
        name="vlm-images",
        mixture=MixtureConfig(
            weights=(("spar-234k", 1.0), ("llava-hound-64k", 1.0), ("vlm-3r", 1.0))
        ),
        train=_published(),
    )


def vlm_release() -> TuneRecipe:
    """`vlm-vsi` with the adapter as released: LayerNorm after the attention and a sigmoid gate.

    Command: spa3r tune --recipe vlm-release.
    Hardware: as vlm-vsi.
    Hours: not measured.
    Metric: as vlm-vsi.
    """
    return TuneRecipe(
        name="vlm-release",
        vlm=VlmConfig(fusion=FusionConfig(form="release")),
        mixture=MixtureConfig(weights=(("vsi-590k", 1.0),)),
        train=_published(),
    )


def _published() -> TuneConfig:
    return TuneConfig(
        batches_per_step=8,
        sharding="fsdp2",
        checkpoint_every=500,
        validate_every=500,
        log_every=10,
    )
