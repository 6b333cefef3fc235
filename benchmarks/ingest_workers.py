"""Does a second worker help, and does memory stay flat?

Usage: python -m benchmarks.ingest_workers [--json FILE] [--rounds N]
"""

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import cv2

from benchmarks import common
from benchmarks.scans import make_scan
from preprocessing.dataset import ingest_dataset
from preprocessing.ingest import ingest_scene
from preprocessing.runners import local_runner
from preprocessing.scannet import ScannetSource
from preprocessing.workers import process_pool
from spa3r.config import IngestSpec

SCANS, FRAMES = 12, 60
SHORT, LONG = 20, 400

DESCRIPTION = f"""
`two_workers` is how many times faster two worker processes ingest {SCANS} scans of {FRAMES} frames
(colour 1296x968, depth 640x480, to 518x378) than this one process does; their start from a process
that holds the imports is part of the measured time. `load_before` is the machine's load average
before the first round: on a busy machine the ratio says nothing.

Memory is the peak resident size of a worker after a scan, less that of the same worker idle after
its imports, for scans of {SHORT} and of {LONG} frames.
"""


def main() -> None:
    """Runs both sides and publishes the result."""
    options = common.arguments("ingest_workers", rounds=5)
    load = os.getloadavg()[0]
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        raw.mkdir()
        scan, origin = make_scan(raw / "scan00.sens", FRAMES)
        for number in range(1, SCANS):
            shutil.copyfile(scan, raw / f"scan{number:02d}.sens")
        times = common.interleave(
            {f"workers_{n}": lambda n=n: run(raw, out, n) for n in (1, 2)}, options.rounds
        )
        memory = {f"memory_mib_{n}_frames": worker_memory(Path(folder), n) for n in (SHORT, LONG)}
    facts = memory | {
        "frames_per_second_1": SCANS * FRAMES / statistics.median(times["workers_1"]),
        "frames_per_second_2": SCANS * FRAMES / statistics.median(times["workers_2"]),
        "load_before": load,
        "input": origin,
    }
    ratios = {"two_workers": common.ratio(times, "workers_1", "workers_2")}
    common.publish("ingest_workers", "Ingest workers", DESCRIPTION, options, times, ratios, facts)


def run(raw: Path, out: Path, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    runner = local_runner(workers)
    manifest = ingest_dataset(str(raw), "scannet", IngestSpec(), str(out), runner=runner)
    assert manifest.frames == SCANS * FRAMES


def worker_memory(folder: Path, frames: int) -> float:
    """MiB that a worker's peak lies above its size when idle, after the imports."""
    scan, _ = make_scan(folder / f"scan{frames}.sens", frames)
    with process_pool(1) as pool:
        idle = pool.submit(forget_peak).result()
        source = ScannetSource(name="scan", split="", url=str(scan), kind="sens")
        pool.submit(ingest_scene, source, IngestSpec(), str(folder / f"out{frames}")).result()
        return (pool.submit(resident_kib, "VmHWM").result() - idle) / 1024


def forget_peak() -> int:
    """KiB resident now; the peak counts from here."""
    from webdataset.writer import TarWriter  # what ingest imports late

    assert TarWriter is not None
    Path("/proc/self/clear_refs").write_text("5")
    return resident_kib("VmRSS")


def resident_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
