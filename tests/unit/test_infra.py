"""The infrastructure files cannot be run here: their syntax and their references are checked."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from spa3r.recipes import catalogue

REPO = Path(__file__).resolve().parents[2]
INFRA = REPO / "infra"
INSTRUCTIONS = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}


def test_compose_services_refer_to_things_that_exist() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    services = compose["services"]
    built = {s["image"] for s in services.values() if "build" in s}
    for name, service in services.items():
        assert "image" in service, name
        if service["image"].startswith("spa3r-"):
            assert service["image"] in built, name
        if "build" in service:
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert set(service.get("depends_on", [])) <= set(services), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            inside = (INFRA / source).exists() if source.startswith(".") else None
            assert inside if inside is not None else source in compose["volumes"], volume
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} beyond loopback"


def test_no_secret_is_written_in_the_open() -> None:
    for path in INFRA.iterdir():
        for line in path.read_text().splitlines():
            found = re.search(r"(PASSWORD|TOKEN|SECRET[A-Z_]*)\s*[:=]\s*(\S+)", line)
            if found and path.suffix == ".yaml":
                assert found[2].startswith(("${", '"${', "*")), f"{path.name}: {line.strip()}"


def test_head_and_workers_share_a_token() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    for name in ("ray-head", "ray-worker", "worker"):
        assert compose["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" in compose["services"][name]["environment"]


def test_raycluster_is_a_kuberay_manifest() -> None:
    cluster = yaml.safe_load((INFRA / "raycluster.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    lock = (REPO / "requirements.lock").read_text()
    assert f"ray=={cluster['spec']['rayVersion']}" in lock
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted <= {v["name"] for v in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
    (gpu,) = cluster["spec"]["workerGroupSpecs"]
    assert gpu["minReplicas"] <= gpu["replicas"] <= gpu["maxReplicas"]


def test_the_job_trains_on_that_cluster() -> None:
    """Same image, claim, home and token; a command and a recipe that exist; time to save."""
    job = yaml.safe_load((INFRA / "pretrain-job.yaml").read_text())
    cluster = yaml.safe_load((INFRA / "raycluster.yaml").read_text())
    ours, theirs = (
        job["spec"]["template"]["spec"],
        cluster["spec"]["headGroupSpec"]["template"]["spec"],
    )
    (mine,), (head,) = ours["containers"], theirs["containers"]
    assert mine["image"] == head["image"]
    assert ours["volumes"][0] == theirs["volumes"][0]
    assert ours["securityContext"] == theirs["securityContext"]
    given, shared = ({e["name"]: e for e in pod["env"]} for pod in (mine, head))
    for name in ("SPA3R_HOME", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        assert given[name] == shared[name], name
    service = f"{cluster['metadata']['name']}-head-svc:6379"
    (script,) = mine["args"]
    assert service in script and "exec spa3r pretrain" in script
    assert given["RECIPE"]["value"] in catalogue.RECIPES
    assert ours["restartPolicy"] == "OnFailure" and ours["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("path", sorted(INFRA.glob("*.Dockerfile")), ids=lambda p: p.name)
def test_dockerfiles_parse_and_copy_what_exists(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines[0].startswith("FROM ")
    assert any(line.startswith("USER ") for line in lines), "runs as root"
    for line in lines:
        instruction, *arguments = line.split()
        assert instruction in INSTRUCTIONS, line
        if instruction == "COPY":
            assert all((REPO / source).exists() for source in arguments[:-1]), line


@pytest.mark.parametrize("script", [INFRA / "setup.sh", REPO / ".ci" / "run"], ids=lambda p: p.name)
def test_shell_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
