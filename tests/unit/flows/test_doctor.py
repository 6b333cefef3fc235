"""`spa3r doctor` says what is there and what is lacking, and never falls over what it finds."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from flows import doctor
from tests.ports import free_port

LINE = re.compile(r"(ok|--|!!)  \S.*")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def test_every_line_has_a_mark_and_the_main_things_are_named(home: Path) -> None:
    lines = doctor.report().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    text = "\n".join(lines)
    for needed in (
        "Python 3.", "cores", "GiB free", "Open3D", "GPU", f"{home}/not/yet/mlflow.db",
        "Prefect: ephemeral", "Ray: local", "teacher rgbd: built in", *doctor.PACKAGES,
    ):  # fmt: skip
        assert needed in text, needed
    assert not (home / "not").exists(), "looking wrote something"


def test_a_server_that_is_away_is_marked_with_its_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, prefect = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    monkeypatch.setenv("PREFECT_API_URL", f"{prefect}/api")
    wrong = [line for line in doctor.report().splitlines() if line.startswith("!!")]
    assert any(mlflow in line and "mlflow server" in line for line in wrong)
    assert any(prefect in line and "prefect server start" in line for line in wrong)


def test_a_missing_package_is_marked_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "webdataset":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert "!!  webdataset is not installed: run `make setup`" in doctor.report()


def test_teachers_of_the_cache_are_found(home: Path) -> None:
    before = doctor.report()
    assert "--  teacher VGGT-1B: not in the cache" in before
    (home / "hf" / "hub" / "models--facebook--VGGT-1B").mkdir(parents=True)
    after = doctor.report()
    assert "ok  teacher VGGT-1B: in the Hugging Face cache" in after
    assert "--  teacher DINOv3" in after


def test_no_line_shows_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    away = f"lab:hunter2@127.0.0.1:{free_port()}"
    monkeypatch.setenv("PREFECT_API_URL", f"http://{away}/api")
    for uri in (f"http://{away}", f"postgresql://{away}/mlflow", f"mysql://{away}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = doctor.report()
        assert found.count("lab:***@127.0.0.1") >= 2 and "hunter2" not in found
