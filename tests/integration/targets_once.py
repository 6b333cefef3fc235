"""One run of write_targets, to be killed: python -m tests.integration.targets_once FRAMES OUT N."""

import sys

import torch

from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.shards import FrameTable

CLIPS = ClipSpec(view_counts=(4, 6), gap=(1, 2), clips_per_scene=10, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


def run(frames: str, out: str, workers: int) -> None:
    table = FrameTable(frames)
    write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train", workers=workers)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
