"""A report with made-up numbers and pictures: everything a flow would fill in."""

from dataclasses import replace

import numpy as np

from spa3r.config import ModelConfig, Recipe, TeacherSpec
from spa3r.eval.controls import CONTROLS
from spa3r.eval.examples import ClipExample
from spa3r.eval.field_report import MODEL, FieldReport, SceneRow, summarise
from spa3r.eval.gate import field_gate
from spa3r.viz.report import DataSummary, Place, ReportData, StageTime

_R2 = (0.71, 0.0, -0.21, 0.38, 0.29, 0.33)


def field_report(scenes: int = 12) -> FieldReport:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(scenes):
        scores = {}
        for method, r2 in zip((MODEL, *CONTROLS), _R2, strict=True):
            base = r2 + rng.normal(0, 0.04) * (method != "training_mean")
            scores[method] = {
                "geo/r2": base,
                "geo/centred_cosine": max(0.0, base) ** 0.5,
                "geo/cosine": 0.85 + 0.1 * base,
                "geo/l1": 0.6 - 0.3 * base,
                "sem/r2": base - 0.1,
                "sem/centred_cosine": max(0.0, base) ** 0.5 - 0.05,
                "sem/cosine": 0.7 + 0.1 * base,
                "sem/l1": 0.7 - 0.3 * base,
            }
            if method != "training_mean":
                scores[method] |= {
                    "depth/abs_rel": 0.3 - 0.2 * base,
                    "depth/delta1": 0.5 + base / 2,
                }
        rows.append(
            SceneRow(dataset="rooms", scene=f"room{index:04d}", clips=4, tokens=768, scores=scores)
        )
    return summarise(rows, {}, "standardised", 0)


def clip_example(seed: int = 0, *, context: int = 3, targets: int = 3) -> ClipExample:
    rng = np.random.default_rng(seed)
    rows, columns = 6, 8
    y, x = np.mgrid[:168, :224] / 224
    views = context + targets
    images = np.stack(
        [np.stack([x + 0.1 * v, y, 0.5 + 0 * x], axis=-1).clip(0, 1) for v in range(views)]
    )
    gy, gx = np.mgrid[:rows, :columns] / columns
    waves = [np.sin(k * (gx + 0.2 * seed) + gy * (k % 3) + np.arange(targets)[:, None, None])
             for k in range(1, 9)]  # fmt: skip
    target = np.stack(waves, axis=-1).reshape(targets, rows * columns, 8)
    predicted = target + rng.normal(0, 0.15, target.shape)
    depth = np.broadcast_to((1.4 - gy).reshape(-1), (targets, rows * columns)).copy()
    valid = np.ones(depth.shape, dtype=bool)
    valid[0, 5] = False
    depth[0, 5] = 0
    return ClipExample(
        scene=f"room{seed:04d}",
        clip=f"room{seed:04d}-{seed:012x}",
        frames=tuple(range(3, 3 + 2 * views, 2)),
        is_target=(False, *([True, False] * context)[: views - 1]),
        grid_hw=(rows, columns),
        images_VHW3=(images * 255).astype(np.uint8),
        target={"geo": target.astype(np.float16), "sem": target[..., :4].astype(np.float16)},
        predicted={
            "geo": predicted.astype(np.float16),
            "sem": predicted[..., :4].astype(np.float16),
        },
        depth_TN=depth.astype(np.float32),
        predicted_depth_TN=(depth * 1.05 + 0.02).astype(np.float32),
        valid_TN=valid,
        scores={"geo/r2": 0.7, "sem/r2": 0.6},
    )


def metrics_rows(steps: int = 900) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    rows = []
    for step in range(10, steps + 1, 10):
        fall = 0.2 + 0.8 * np.exp(-step / 200) + rng.normal(0, 0.02)
        parts = {"geo/l1": 0.4 * fall, "geo/cos": 0.9 * fall, "sem/l1": 0.3 * fall,
                 "sem/cos": 0.7 * fall, "depth_prob": 0.1 * fall}  # fmt: skip
        rows.append({"step": step, **parts, "total": sum(parts.values()), "lr": 1e-3})
    return rows


def report_data(clips: int = 1) -> ReportData:
    recipe = Recipe(
        name="tiny",
        teacher=TeacherSpec(
            geometric="rgbd", semantic="labels", cameras="dataset", width=256, semantic_width=64
        ),
        model=ModelConfig(geo_width=256, sem_width=64, width=192, num_heads=6, num_latents=64),
    )
    recipe = replace(recipe, train=replace(recipe.train, steps=900, batches_per_step=1))
    field = field_report()
    return ReportData(
        title="Spa3R field report: tiny on generated rooms",
        recipe=recipe,
        geometric_teacher={
            "kind": "rgbd",
            "uri": "builtin",
            "hash": "4c1fa0d2b7e98a31",
            "variant": "v1",
            "licence": "Apache-2.0",
        },
        semantic_teacher={"kind": "labels", "uri": "builtin", "hash": "77aa", "variant": "v1"},
        data=DataSummary(
            dataset="generated rooms (ScanNet layout)",
            scenes={"train": 64, "val": 12},
            frames=1751,
            dropped={"invalid_pose": 41, "empty_depth": 32},
            clips={"train": 1536, "val": 48},
            data_hash="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            target_hash="60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
        ),
        field=field,
        verdict=field_gate(field),
        metrics=metrics_rows(),
        examples=[clip_example(seed) for seed in range(clips)],
        timings=[
            StageTime(stage="rooms", seconds=58.2, note="76 rooms, 24 frames each"),
            StageTime(stage="ingest", seconds=9.1, note="200 frames/s"),
            StageTime(stage="targets", seconds=21.4, note="1584 clips"),
            StageTime(stage="pretrain", seconds=171.0, note="5.3 steps/s"),
            StageTime(stage="evaluate", seconds=6.7),
        ],
        places=[
            Place(
                what="Registered model",
                where="models:/spa3r-encoder@candidate (version 1)",
                command="mlflow.pyfunc.load_model('models:/spa3r-encoder@candidate')",
            ),
            Place(
                what="MLflow database",
                where="/home/lab/.spa3r/mlflow.db",
                command="mlflow ui --backend-store-uri sqlite:////home/lab/.spa3r/mlflow.db",
            ),
        ],
        versions={"spa3r": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    )
