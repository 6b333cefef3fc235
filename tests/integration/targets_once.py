"""One run of write_targets, to be killed: python -m tests.integration.targets_once FRAMES OUT N.

With a fourth argument, a file: every clip is a part of its own, and the ids of those that the
teacher is asked about are appended to it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from preprocessing import target_answers
from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import Sight, TeacherAnswers
from spa3r.data.shards import FrameTable
from spa3r.teachers.base import GeometricTargets

CLIPS = ClipSpec(view_counts=(4, 6), gap=(1, 2), clips_per_scene=10, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


def run(frames: str, out: str, workers: int) -> None:
    table = FrameTable(frames)
    write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train", workers=workers)


def log_questions(log: Path) -> None:
    target_answers.PART_BYTES = 1
    of_clips = TeacherAnswers.of_clips

    def logged(self: TeacherAnswers, sights: Sequence[Sight], **how: Any) -> GeometricTargets:
        with log.open("a") as f:
            f.write("".join(f"{sight.clip.id}\n" for sight in sights))
        return of_clips(self, sights, **how)

    TeacherAnswers.of_clips = logged


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 4:
        log_questions(Path(sys.argv[4]))
    print("ready", flush=True)
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
