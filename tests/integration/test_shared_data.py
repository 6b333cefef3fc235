"""All the real data at hand, by the command on this machine and by the flow on Ray: same shards."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spa3r import schema
from spa3r.data.shards import FrameTable

SPA3R = [sys.executable, "-m", "spa3r.cli"]
# Narrow pictures: what is checked here does not depend on the width.
SETTINGS = {"ingest.width": 112}


@dataclass(frozen=True)
class Case:
    """A root in shared/data, and what must come of it."""

    root: str
    dataset: str
    announced: int
    kept: int
    dropped: dict[str, int]
    posed: bool = True
    depth: bool = True

    @property
    def name(self) -> str:
        return self.root.replace("/", "_") + f"_{self.dataset}"


CASES = [
    Case("scannet/export", "scannet", 40, 37, {schema.DROP_POSE: 2, schema.DROP_DEPTH: 1}),
    Case("scannet/sens", "scannet", 18, 14, {schema.DROP_POSE: 3, schema.DROP_DEPTH: 1}),
    Case("scannetpp/fake_root", "scannetpp", 15, 12, {schema.DROP_TEST: 3}, depth=False),
    Case(
        "scannetpp/fake_root",
        "scannetpp_iphone",
        31,
        28,
        {schema.DROP_UNREGISTERED: 1, schema.DROP_TEST: 2},
    ),
    Case("rgbd", "open3d", 5, 5, {}),
    Case("rgb", "photos", 8, 8, {}, posed=False, depth=False),
]

# Every case as the flow would be called by a deployment, in one Prefect and one Ray session.
FLOWS = """
import json, os, sys
from flows.settings import Settings
Settings.from_environment().prepare_environment()
import ray
ray.init(num_cpus=2, _memory=2 << 30, include_dashboard=False, log_to_driver=False,
         _node_ip_address="127.0.0.1")
from flows.ingest import ingest
for root, dataset, shards in json.loads(sys.argv[1]):
    os.environ["SPA3R_SHARDS"] = shards
    print(json.dumps(ingest(root, dataset=dataset, overrides=json.loads(sys.argv[2]), ray=True)))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_API"))}
    return kept | {"SPA3R_HOME": str(home), "PREFECT_HOME": str(home / "prefect")} | more


def shards_of(home: Path, case: Case) -> Path:
    (folder,) = (home / case.name).glob(f"{case.dataset}-????????")
    return folder


@pytest.fixture(scope="module")
def by_command(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("command")
    overrides = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    for case in CASES:
        command = [*SPA3R, "ingest", str(shared / "data" / case.root), "--dataset", case.dataset]
        done = subprocess.run(
            [*command, *overrides], env=environment(home, SPA3R_SHARDS=str(home / case.name)),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{case.name}: {done.stderr}"
        assert f"{case.kept} of {case.announced} frames" in done.stdout
    return home


@pytest.fixture(scope="module")
def by_flow_on_ray(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ray")
    calls = [(str(shared / "data" / c.root), c.dataset, str(home / c.name)) for c in CASES]
    command = [sys.executable, "-c", FLOWS, json.dumps(calls), json.dumps(SETTINGS)]
    done = subprocess.run(
        command, env=environment(home, SPA3R_WORKERS="2"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counts_poses_and_depth(by_command: Path, case: Case):
    table = FrameTable(shards_of(by_command, case))
    assert table.manifest["announced"] == case.announced
    assert table.manifest["frames"] == case.kept
    assert table.manifest["dropped"] == case.dropped
    assert table.manifest["failures"] == {}
    for scene in table.scenes():
        for number in table.frames(scene):
            frame = table.load_frame(scene, number)
            assert (frame.depth_mm is not None) == case.depth
            assert (frame.world_from_camera_44 is not None) == case.posed


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_flow_on_ray_makes_the_same_files(by_command: Path, by_flow_on_ray: Path, case: Case):
    here, there = (shards_of(home, case) for home in (by_command, by_flow_on_ray))
    files = [p.relative_to(here) for p in sorted(here.rglob("*")) if p.is_file()]
    assert len(files) >= 5
    assert files == [p.relative_to(there) for p in sorted(there.rglob("*")) if p.is_file()]
    for name in files:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


@pytest.mark.parametrize("case", [c for c in CASES if c.posed], ids=lambda case: case.name)
def test_verify_finds_nothing_wrong(by_command: Path, case: Case):
    from flows.verify import verify

    own, checks = verify(str(shards_of(by_command, case)))
    assert own == []
    for check in checks:
        # Frames of the export and of the .sens are a second apart; those of the others neighbours.
        assert check.faults == []
        assert (check.poses is not None) == case.depth


def test_scan_poses_and_depth_are_the_recorded_ones(by_command: Path, shared: Path):
    table = FrameTable(shards_of(by_command, CASES[1]))
    facts = json.loads((shared / "data/scannet/sens/redkitchen.sens.expected.json").read_text())
    for number in table.frames("redkitchen"):
        frame, expected = table.load_frame("redkitchen", number), facts["frames"][number]
        assert frame.depth_mm is not None and frame.K_33 is not None
        pose = expected["pose_camera_to_world"]
        np.testing.assert_allclose(frame.world_from_camera_44, pose, atol=1e-6)
        mean = expected["depth_sum"] / expected["depth_nonzero"]
        assert abs(frame.depth_mm[frame.depth_mm > 0].mean() / mean - 1) < 0.02
        assert frame.K_33[0, 0] == pytest.approx(585 * 112 / 640)


def test_iphone_depth_is_the_toolkits(by_command: Path, shared: Path):
    table = FrameTable(shards_of(by_command, CASES[3]))
    (scene,) = table.scenes()
    path = shared / "data/scannetpp/fake_root/data/a1b2c3d4e5.expected.json"
    means = json.loads(path.read_text())["iphone"]["depth_mean_mm"]
    kept = table.frames(scene)
    assert len(kept) == CASES[3].kept
    for number, mean in ((number, means[number]) for number in kept):
        depth_mm = table.load_frame(scene, number).depth_mm
        assert depth_mm is not None and abs(depth_mm[depth_mm > 0].mean() / mean - 1) < 0.03


def test_damaged_scans_are_named_once_and_the_good_ones_kept(shared: Path, tmp_path: Path):
    root = shared / "data" / "scannet" / "sens_bad"
    expected = {e["file"].removesuffix(".sens"): e for e in json.loads(
        (root / "expected.json").read_text())}  # fmt: skip
    command = [*SPA3R, "ingest", str(root), "--set=ingest.width=112"]
    first, second = (
        subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True)
        for _ in range(2)
    )
    assert first.returncode == 1 and "Traceback" not in first.stderr
    assert second.returncode == 0, second.stderr  # they were named, and have not changed
    (folder,) = (tmp_path / "shards").glob("scannet-????????")
    table = FrameTable(folder)
    for name, facts in expected.items():
        complete = facts.get("frames_complete") or []
        if facts["outcome"] == "reject" or not complete:
            assert name in table.manifest["failures"], name
        else:
            assert table.frames(name) == complete, name
