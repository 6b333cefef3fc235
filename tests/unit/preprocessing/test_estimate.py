"""The dry run: what would be read, from few opened scenes, and nothing written."""

from pathlib import Path

import pytest

from preprocessing import estimate as module
from preprocessing.dataset import ingest_dataset
from preprocessing.estimate import Estimate, describe, duration, estimate, size
from spa3r import storage
from spa3r.config import IngestSpec
from spa3r.errors import SceneError
from tests.sens_maker import make_dataset, make_sens
from tests.unit.preprocessing.test_arkitscenes import write_video

SPEC = IngestSpec(width=84, multiple=14, stride=2)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "raw", scans=4, frames=12)


def estimated(raw: Path, out: Path, spec: IngestSpec = SPEC) -> Estimate:
    return estimate(str(raw), "", spec, str(out), workers=2)


def test_everything_is_new(raw: Path, tmp_path: Path) -> None:
    frames = {p.name: p.stat().st_size for p in raw.rglob("*.sens")}
    found = estimated(raw, tmp_path / "out")
    assert found.states == {"new": 4} and found.to_read == 4
    assert (found.announced, found.chosen) == (48, 24)
    assert found.bytes_in >= sum(frames.values())
    assert found.sampled.scenes == 4 and found.sampled.timed == 3 * 6
    assert found.seconds and found.workers == 2 and found.free
    assert not (tmp_path / "out").exists() and sorted(tmp_path.iterdir()) == [raw]
    ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
    written = sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))
    assert found.bytes_out and found.bytes_out == pytest.approx(written, rel=0.5)


def test_each_scan_stands_somewhere(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = raw / "scans" / "scene0003_00" / "scene0003_00.sens"
    bad.write_bytes(b"\x09\0\0\0 of another version")
    with pytest.raises(SceneError, match="scene0003_00"):
        ingest_dataset(str(raw), "", SPEC, str(out))
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert estimated(raw, out).states == {"done": 3, "refused": 1}
    make_sens(raw / "scans" / "scene0001_00" / "scene0001_00.sens", frames=20)
    make_sens(raw / "scans" / "scene0009_00" / "scene0009_00.sens", frames=6)
    found = estimated(raw, out)
    assert found.states == {"done": 2, "refused": 1, "scan changed": 1, "new": 1}
    assert (found.announced, found.chosen) == (26, 13)
    strict = estimated(raw, out, IngestSpec(width=84, multiple=14, stride=2, min_frames=7))
    assert strict.states["judged again"] == 2
    other = estimated(raw, out, IngestSpec(width=56, multiple=14, stride=2))
    assert other.states == {"settings changed": 4, "new": 1}
    assert list(other.sampled.unreadable) == ["scene0003_00"]
    text = describe(other, SPEC)
    assert "!!      scene0003_00: " in text and "version" in text
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}


def test_nothing_to_do_takes_no_time(raw: Path, tmp_path: Path) -> None:
    ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
    found = estimated(raw, tmp_path / "out")
    assert (found.to_read, found.bytes_in, found.chosen, found.seconds) == (0, 0, 0, 0)
    text = describe(found, SPEC)
    assert "4 of dataset scannet: 4 done" in text and "nothing" in text and "about" not in text


def test_few_scenes_stand_for_all(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENED", 2)
    monkeypatch.setattr(module, "TIMED_SCENES", 1)
    found = estimated(raw, tmp_path / "out")
    assert found.sampled.scenes == 2 and found.sampled.timed == 6
    assert found.announced == pytest.approx(48, abs=3)
    assert "counted in 2 of 4 scenes" in describe(found, SPEC)


def test_scenes_are_spread_evenly() -> None:
    chosen = module._spread([*range(100)], 4)  # type: ignore[arg-type]
    assert chosen == [12, 37, 62, 87]
    assert module._spread([*range(3)], 20) == [0, 1, 2]  # type: ignore[arg-type]


def test_other_choices_of_frames_are_not_run(raw: Path, tmp_path: Path) -> None:
    spec = IngestSpec(width=84, multiple=14, max_frames=5, choice="sharpest")
    found = estimated(raw, tmp_path / "out", spec)
    assert found.chosen == 20
    assert "looking for frames (sharpest) comes on top" in describe(found, spec)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.sens").write_bytes(b"no scan")
    found = estimated(tmp_path / "raw", tmp_path / "out")
    assert found.chosen is None and found.seconds is None
    text = describe(found, SPEC)
    assert "unknown: no scene could be opened" in text and "!!      a: " in text


def test_urls_and_scene_names(raw: Path) -> None:
    for path in raw.rglob("*.*"):
        url = f"memory://estimate-test/raw/{path.relative_to(raw).as_posix()}"
        storage.write_bytes(url, path.read_bytes())
    out = "memory://estimate-test/out"
    found = estimate(
        "memory://estimate-test/raw", "mine", SPEC, out, workers=8, scenes=["scene0002_00"]
    )
    assert found.states == {"new": 1} and found.announced == 12 and found.workers == 1
    assert found.free is None and "free)" not in describe(found, SPEC)
    assert not storage.exists(out)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.25e6, "1.2 MB"), (99.6e9, "100 GB"),
     (999.6e9, "1.0 TB"), (1.3e12, "1.3 TB"), (5e18, "5000 PB")],
)  # fmt: skip
def test_sizes_for_a_person(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "a second"), (40, "40 s"), (89, "89 s"), (120, "2.0 min"), (3600, "60.0 min"),
     (11520, "3.2 h"), (2 * 86400, "2.0 days")],
)  # fmt: skip
def test_times_for_a_person(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_frames_known_to_be_lost_are_neither_counted_nor_timed(tmp_path: Path) -> None:
    seconds = [f"5.{int(i * 1000 / 60):03d}" for i in range(60)]
    poses = "".join(f"{second} 0 0 0 0 0 0\n" for second in seconds[::5])
    write_video(tmp_path / "raw" / "7", seconds, poses, name="7")
    spec = IngestSpec(width=84, multiple=14, max_frames=10)
    found = estimated(tmp_path / "raw", tmp_path / "out", spec)
    assert (found.announced, found.chosen, found.sampled.timed) == (60, 10, 8)
    ingest_dataset(str(tmp_path / "raw"), "", spec, str(tmp_path / "out"))
    written = sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))
    assert found.bytes_out and found.bytes_out == pytest.approx(written, rel=0.7)
