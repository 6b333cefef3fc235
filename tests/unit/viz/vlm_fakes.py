"""A report of Spa3-VLM with made-up numbers and pictures: all that an evaluation fills in."""

import math

import numpy as np

from spa3r.eval.bootstrap import Interval
from spa3r.eval.suite import METHODS
from spa3r.viz.vlm_report import (
    PublishedTable,
    QuestionExample,
    SupervisedText,
    TaskScores,
    VlmReportData,
)

TASKS = {
    "object_counting": "numerical",
    "object_abs_distance": "numerical",
    "object_size_estimation": "numerical",
    "room_size_estimation": "numerical",
    "object_rel_distance": "multiple choice",
    "object_rel_direction": "multiple choice",
    "route_planning": "multiple choice",
    "obj_appearance_order": "multiple choice",
}


def interval(mean: float, half: float) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def task_scores(task: str, group: str, seed: int, questions: int = 24) -> TaskScores:
    rng = np.random.default_rng(seed)
    model = 45 + 20 * rng.random()
    scores = {m: interval(model - (6 + 9 * rng.random()) * (m != "model"), 5) for m in METHODS}
    differences = {
        m: interval(model - scores[m].mean, 4 + 9 * rng.random()) for m in METHODS if m != "model"
    }
    return TaskScores(task=task, questions=questions, scenes=12, scores=scores,
                      differences=differences, group=group)  # fmt: skip


def frames(count: int, seed: int) -> np.ndarray:
    """Smooth made-up pictures, (V, H, W, 3) uint8."""
    y, x = np.mgrid[:168, :224] / 224
    views = [np.stack([x + 0.1 * v, y + 0.05 * seed, 0.5 + 0 * x], axis=-1) for v in range(count)]
    return (np.stack(views).clip(0, 1) * 255).astype(np.uint8)


def example(seed: int = 0, *, right: bool = True, count: int = 6) -> QuestionExample:
    shares = np.random.default_rng(seed).dirichlet(np.ones(count))
    return QuestionExample(
        id=f"q{seed:03d}",
        task="object_counting",
        scene=f"scene{seed:04d}_00",
        question="These are frames of a video.\nHow many chair(s) are in this room?\n"
        "Please answer the question using a single word or phrase.",
        gold="4",
        answers={"model": "4" if right else "<b>2</b>", "blind": "", "no_geometry": "3",
                 "shuffled": "7"},
        scores={"model": 100.0 * right, "blind": 0.0, "no_geometry": 50.0, "shuffled": 0.0},
        right=right,
        frames_VHW3=frames(count, seed),
        frame_names=tuple(f"frame {10 * v}" for v in range(count)),
        view_shares=tuple(float(share) for share in shares),
    )  # fmt: skip


def conversation() -> SupervisedText:
    def words(text: str, learnt: bool) -> list[tuple[str, bool]]:
        return [(word, learnt) for word in text.replace(" ", " \0").split("\0")]

    tokens = [("<|im_start|>", False), ("user", False), ("\n", False), ("<|vision_start|>", False)]
    tokens += [("<|image_pad|>", False)] * 126 + [("<|vision_end|>", False)]
    tokens += words("How many chairs are there?", False)
    tokens += [("<|im_end|>", False), ("\n", False), ("<|im_start|>", False),
               ("assistant", False), ("\n", False), ("1", True), ("1", True),
               ("<|im_end|>", True), ("\n", False)]  # fmt: skip
    return SupervisedText(title="rooms, scene0000_00-0", tokens=tokens)


def curve(steps: int = 300) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    rows = [
        {"step": step, "text": 0.6 + 3 * math.exp(-step / 60) + 0.05 * rng.normal(),
         "lr": 1e-3 * (1 - step / steps)}
        for step in range(5, steps + 1, 5)
    ]  # fmt: skip
    rows += [{"step": step, "validation/text": 0.7 + 3 * math.exp(-step / 60)}
             for step in range(50, steps + 1, 50)]  # fmt: skip
    return rows


def vlm_report_data() -> VlmReportData:
    tasks = [task_scores(task, group, seed) for seed, (task, group) in enumerate(TASKS.items())]
    return VlmReportData(
        title="Spa3-VLM on generated rooms",
        suite="generated in the form of VSI-Bench about held-out rooms",
        scorer="strict (this project's)",
        overall=task_scores("average over tasks", "", 99, questions=192),
        tasks=tasks,
        frames={6: 190, 4: 2},
        prompt="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        decoding="greedy, at most 64 new tokens",
        examples=[example(0), example(1, right=False), example(2, count=3)],
        published=[
            PublishedTable(
                title="VSI-Bench", source="Spa3R, Table 1", columns=("Avg.", "Obj. count"),
                rows=(("Spa3-VLM-4B", (58.6, 69.0)), ("Made up", (1.0, None))),
                same_questions=False,
            )
        ],
        remarks=["Tiny, and tuned for seconds: the scores say that the chain runs."],
        unparsed={"model": 2, "blind": 0},
        gate=(False, "model - shuffled: lower bound -1.2 <= 0"),
        supervised=[conversation()],
        curve=curve(),
        drops={"question generator": {"tie": 12, "too_small": 40}, "mixture": {}},
        facts={"Base": "tiny Qwen2.5-VL, made here", "Encoder": "spa3r-encoder version 1"},
        timings=[("questions", 3.2), ("tune", 71.0), ("evaluate", 30.0)],
    )  # fmt: skip
