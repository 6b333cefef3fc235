"""Random clips per second from frame shards, against the usual folders of a file per picture.

Usage: python -m benchmarks.reader [--json FILE] [--rounds N]

The usual way is an exported scene: for every frame a colour JPEG, a depth PNG and a pose as text,
and one text file of intrinsics. The payloads are the same bytes and both sides decode them alike,
so that the ratio is that of the format. Over S3 both sides ask moto's server on loopback, a process
of its own; what a real network adds is in the number of requests.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from benchmarks import common
from benchmarks.scans import make_scan
from preprocessing.dataset import ingest_dataset
from spa3r import images, storage
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable
from tests.ports import free_port
from tests.s3_server import Gate, make_bucket, proxy, use_s3

SCENES = 2
FRAMES = 40
VIEWS = 8
CLIPS = {"local": 12, "s3": 4}
"""Read in a round by each side."""

DESCRIPTION = f"""
Random clips of {VIEWS} views (518x378: colour, depth, intrinsics, pose), from {SCENES} scenes of
{FRAMES} frames, on one core. *Shards*: `FrameTable.load_frame`, ranges of one tar a scene. *Files*:
the usual folder, a JPEG, a PNG and a pose file for every frame. Payloads and decoders are the same.
`ratio_local` and `ratio_s3` say how many times faster the shards are; files are in the page cache,
the S3 server is moto on loopback, without a network's delay. `requests_per_clip` counts what each
side asks of it: over a network every request costs a round trip.
"""

Clip = tuple[str, list[int]]
"""A scene, and the frames to load."""


def main() -> None:
    """Runs both sides, local and over S3, on one core and publishes the result."""
    options = common.arguments("reader", rounds=5)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name, moto_server() as port:
        folder = Path(name)
        shards, files = folder / "shards", folder / "files"
        origin = make_data(folder / "raw", shards)
        table = FrameTable(shards)
        export(table, files)
        clips = draw_clips(table, max(CLIPS.values()))
        with use_s3(port):
            bucket = make_bucket("reader")
            for local in (shards, files):
                upload(local, f"{bucket}/{local.name}")
            remote = FrameTable(f"{bucket}/shards")
            check_same(remote, f"{bucket}/files", clips[0])
            machine_cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {max(machine_cores)})
            times = common.interleave(
                {
                    "shards_local": lambda: ours(table, clips[: CLIPS["local"]]),
                    "files_local": lambda: usual(str(files), clips[: CLIPS["local"]]),
                    "shards_s3": lambda: ours(remote, clips[: CLIPS["s3"]]),
                    "files_s3": lambda: usual(f"{bucket}/files", clips[: CLIPS["s3"]]),
                },
                options.rounds,
            )
            os.sched_setaffinity(0, machine_cores)
        requests = {
            "shards": count_requests(port, lambda at: ours(FrameTable(f"{at}/shards"), clips[:1])),
            "shards_open": count_requests(port, lambda at: FrameTable(f"{at}/shards")),
            "files": count_requests(port, lambda at: usual(f"{at}/files", clips[:1])),
        }
    ratios = {
        "ratio_local": common.ratio(times, "files_local", "shards_local"),
        "ratio_s3": common.ratio(times, "files_s3", "shards_s3"),
    }
    facts = {
        f"clips_per_second_{side}": CLIPS[side.partition("_")[2]] / statistics.median(values)
        for side, values in times.items()
    } | {
        "requests_per_clip_shards": requests["shards"] - requests["shards_open"],
        "requests_per_clip_files": requests["files"],
        "requests_to_open_the_manifest": requests["shards_open"],
        "views": VIEWS,
        "input": origin,
        "cores_used": 1,
    }
    common.publish("reader", "Reading clips", DESCRIPTION, options, times, ratios, facts)


# --- data -----------------------------------------------------------------------------------------


def make_data(raw: Path, shards: Path) -> str:
    """Ingests made scans; where their pictures are from."""
    origin = ""
    for number in range(SCENES):
        scan = raw / "scans" / f"scene{number:04d}_00" / f"scene{number:04d}_00.sens"
        scan.parent.mkdir(parents=True)
        _, origin = make_scan(scan, FRAMES)
    ingest_dataset(str(raw), "scannet", IngestSpec(stride=1), str(shards))
    return origin


def export(table: FrameTable, folder: Path) -> None:
    """The same frames as one file a picture."""
    for scene in table.scenes():
        place = folder / scene
        place.mkdir(parents=True)
        tar = (Path(table.folder) / f"{scene}.tar").read_bytes()
        for frame in table.frames(scene):
            row = table.row(scene, frame)
            for part, suffix in (("color", "jpg"), ("depth", "png")):
                begin, size = row[f"{part}_offset"], row[f"{part}_size"]
                (place / f"{frame}.{suffix}").write_bytes(tar[begin : begin + size])
            pose_44 = np.array(row["world_from_camera"]).reshape(4, 4)
            np.savetxt(place / f"{frame}.txt", pose_44)
            np.savetxt(place / "intrinsics.txt", np.array(row["K"]).reshape(3, 3))


def upload(folder: Path, url: str) -> None:
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        storage.write_bytes(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def draw_clips(table: FrameTable, number: int) -> list[Clip]:
    draw = random.Random(0)
    scenes = [draw.choice(table.scenes()) for _ in range(number)]
    return [(scene, draw.sample(table.frames(scene), VIEWS)) for scene in scenes]


# --- sides ----------------------------------------------------------------------------------------


def ours(table: FrameTable, clips: list[Clip]) -> None:
    for scene, frames in clips:
        for frame in frames:
            table.load_frame(scene, frame)


def usual(folder: str, clips: list[Clip]) -> None:
    for scene, frames in clips:
        load_matrix(f"{folder}/{scene}/intrinsics.txt")
        for frame in frames:
            load_files(folder, scene, frame)


def load_files(folder: str, scene: str, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour (H, W, 3) uint8, depth (H, W) uint16 in mm, camera to world (4, 4)."""
    at = f"{folder}/{scene}/{frame}"
    color = images.decode_jpeg(storage.read_bytes(f"{at}.jpg"))
    depth = images.decode_depth_png(storage.read_bytes(f"{at}.png"))
    return color, depth, load_matrix(f"{at}.txt")


def load_matrix(url: str) -> np.ndarray:
    return np.loadtxt(BytesIO(storage.read_bytes(url)))


def check_same(table: FrameTable, folder: str, clip: Clip) -> None:
    """Both sides load the same."""
    scene, frames = clip
    for frame in frames:
        sample, files = table.load_frame(scene, frame), load_files(folder, scene, frame)
        loaded = (sample.color, sample.depth_mm, sample.world_from_camera_44)
        for mine, theirs in zip(loaded, files, strict=True):
            assert mine is not None
            np.testing.assert_allclose(mine, theirs)


# --- server ---------------------------------------------------------------------------------------


def count_requests(port: int, read: Callable[[str], object]) -> int:
    """How often a reader asks the server; `read` gets the URL of the bucket."""
    gate = Gate()
    with proxy(port, gate) as between, use_s3(between):
        read("s3://reader")
    return sum(gate.seen.values())


@contextmanager
def moto_server() -> Iterator[int]:
    """An S3 server in a process of its own; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        with use_s3(port):
            wait_for_server(server)
        yield port
    finally:
        server.terminate()
        server.wait()


def wait_for_server(server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and server.poll() is None:
        try:
            storage.exists("s3://reader/x")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("moto's server does not answer")


if __name__ == "__main__":
    main()
