"""Whether scans are still as ingest read them."""

import os
import shutil
from pathlib import Path

import pytest

from flows import ingest_stage
from flows.lineage import look_at_scans
from flows.settings import Settings
from spa3r import storage
from spa3r.recipes import catalogue
from spa3r.schema import ROOT
from tests.sens_maker import make_dataset


def test_scans_are_looked_at_where_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPA3R_WORKERS", "1")
    raw = make_dataset(tmp_path / "raw", scans=3, frames=4)
    monkeypatch.chdir(tmp_path)
    ingest_stage.ingest("raw", dataset="small", recipe="debug")
    settings = Settings.from_environment()
    shards = settings.shards("small", catalogue.get("debug").ingest)
    assert storage.read_json(storage.join(shards, ROOT)) == {"root": str(raw)}

    def look() -> tuple[str, str]:
        return look_at_scans({"dataset": "small", "root": str(raw), "shards": shards})

    assert look() == ("same", "now: 3 as they were read")
    make_dataset(tmp_path / "more", scans=4, frames=4)
    shutil.move(tmp_path / "more" / "scans" / "scene0003_00", raw / "scans" / "scene0003_00")
    assert look()[0] == "same", "a scan that came later is no part of the chain"
    os.utime(raw / "scans" / "scene0001_00" / "scene0001_00.sens", (1, 1))
    assert look() == ("changed", "now: 2 as they were read, 1 changed")
    shutil.rmtree(raw / "scans" / "scene0002_00")
    assert look() == ("gone", "now: 1 as they were read, 1 changed, 1 gone")
    shutil.rmtree(raw)
    assert look() == ("gone", "no scans are there now")
    shutil.rmtree(shards)
    assert look() == ("gone", "their shards are gone")
