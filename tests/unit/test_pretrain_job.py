"""The Kubernetes job that trains cannot be run here: what it refers to is checked."""

import pytest
import yaml

from flows.settings import Settings
from spa3r.cli import main
from tests.conftest import REPO


def test_the_job_joins_the_ray_cluster_and_is_told_to_stop(monkeypatch: pytest.MonkeyPatch):
    job = yaml.safe_load((REPO / "infra" / "pretrain-job.yaml").read_text())
    cluster = yaml.safe_load((REPO / "infra" / "raycluster.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (driver,) = pod["containers"]
    assert pod["restartPolicy"] == "OnFailure", "a run that stopped or died is carried on"
    assert f"{cluster['metadata']['name']}-head-svc:6379" in driver["args"][0]
    assert "exec spa3r pretrain" in driver["args"][0], "or the shell would keep SIGTERM"
    assert {m["name"] for m in driver["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    ours, theirs = ({e["name"]: e.get("value") for e in c["env"]} for c in (driver, head))
    shared = ("SPA3R_HOME", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE")
    assert driver["image"] == head["image"] and all(ours[n] == theirs[n] for n in shared)
    for name in ("SPA3R_HOME", "SPA3R_TRAIN_WORKERS", "SPA3R_GPU"):
        monkeypatch.setenv(name, ours[name])
    settings = Settings.from_environment()
    assert (settings.least_workers, settings.train_workers, settings.gpu) == (4, 8, True)


def test_its_command_exists(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "--help"])
    assert {"--dataset", "--recipe"} <= set(capsys.readouterr().out.split())
