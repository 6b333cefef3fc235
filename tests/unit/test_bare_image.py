"""The model library and the GPU benchmarks need only what a bare GPU image has."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

HIDE = """
import importlib.machinery, sys
ABSENT = {"prefect", "ray", "mlflow", "webdataset", "open3d", "rich", "matplotlib", "jinja2",
          "pandas", "sqlalchemy", "scipy", "pydantic"}

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = Finder
"""

WORK = """
import argparse, tempfile
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path

import spa3r.models.losses, spa3r.models.spa3r
import spa3r.teachers.dinov3, spa3r.teachers.rgbd, spa3r.teachers.vggt_teacher, spa3r.train.loop
import benchmarks.asymmetric_attention, benchmarks.encode, benchmarks.prope
from benchmarks.pretrain_parts import Size
from benchmarks.pretrain_step import Sides, measure_work, write_all
from spa3r.config import ModelConfig
from tests.small_vggt import SMALL

size = Size(
    clips=1,
    image_hw=(28, 42),
    vggt=SMALL,
    dinov3={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_register_tokens": 4},
    dinov3_side=32,
    dpt_last=4,
    student=ModelConfig(geo_width=64, sem_width=32, width=32, num_heads=2, num_latents=4,
                        encoder_layers=1, decoder_layers=1),
)
with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
    options = argparse.Namespace(device="cpu", compile=False)
    write_all(size, "cpu", Path(folder))
    losses = {k: step() for k, step in Sides(size, options, Path(folder), pool).steps.items()}
    work, shares = measure_work(size, options, Path(folder), pool)
assert len(losses) == 7 and all(isfinite(loss) for loss in losses.values()), losses
assert work["published"] > work["online"] > work["online_targets"] > work["cached"], work
assert all(0 < share < 1 for share in shares.values()), shares
loaded = ABSENT & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_training_step_of_every_benchmark_side_on_a_bare_image() -> None:
    done = run(HIDE + WORK)
    assert done.returncode == 0, done.stderr


def test_the_libraries_really_are_hidden() -> None:
    done = run(HIDE + "import webdataset")
    assert "No module named 'webdataset'" in done.stderr
