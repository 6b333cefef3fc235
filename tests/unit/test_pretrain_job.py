"""The Kubernetes jobs that train cannot be run here: what they refer to is checked."""

import pytest
import yaml

from flows.settings import Settings
from spa3r.cli import main
from spa3r.recipes import vlm_catalogue
from spa3r.tune_commands import ENCODER
from tests.conftest import REPO


@pytest.mark.parametrize("command", ["pretrain", "tune"])
def test_the_job_joins_the_ray_cluster_and_is_told_to_stop(
    command: str, monkeypatch: pytest.MonkeyPatch
):
    job = yaml.safe_load((REPO / "infra" / f"{command}-job.yaml").read_text())
    cluster = yaml.safe_load((REPO / "infra" / "raycluster.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (driver,) = pod["containers"]
    assert pod["restartPolicy"] == "OnFailure", "a run that stopped or died is carried on"
    assert f"{cluster['metadata']['name']}-head-svc:6379" in driver["args"][0]
    assert f"exec spa3r {command} " in driver["args"][0], "or the shell would keep SIGTERM"
    assert {m["name"] for m in driver["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    ours, theirs = ({e["name"]: e.get("value") for e in c["env"]} for c in (driver, head))
    shared = ("SPA3R_HOME", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE")
    assert driver["image"] == head["image"] and all(ours[n] == theirs[n] for n in shared)
    for name in ("SPA3R_HOME", "SPA3R_TRAIN_WORKERS", "SPA3R_GPU"):
        monkeypatch.setenv(name, ours[name])
    settings = Settings.from_environment()
    assert (settings.least_workers, settings.train_workers, settings.gpu) == (4, 8, True)


@pytest.mark.parametrize(
    ("command", "options"),
    [("pretrain", {"--dataset", "--recipe"}), ("tune", {"--encoder", "--recipe"})],
)
def test_its_command_exists(command: str, options: set[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert options <= set(capsys.readouterr().out.split())


def test_the_tuning_job_has_a_recipe_and_an_encoder_that_exist():
    job = yaml.safe_load((REPO / "infra" / "tune-job.yaml").read_text())
    (driver,) = job["spec"]["template"]["spec"]["containers"]
    given = {e["name"]: e.get("value") for e in driver["env"]}
    assert given["RECIPE"] in vlm_catalogue.TUNE_RECIPES
    assert given["ENCODER"] == ENCODER
