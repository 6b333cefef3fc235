"""A real Prefect server and worker on loopback run `pretrain/local` as a user would start it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SETTINGS = '{"train.steps": 6, "train.checkpoint_every": 3, "clips.clips_per_scene": 4}'


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def background(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """A process of its own session, ended with everything it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=REPO, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"{url} did not answer in {seconds} s:\n{log.read_text()}")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SPA3R_"))}
    return inherited | {
        "SPA3R_HOME": str(tmp_path / "home"),
        "SPA3R_WORKERS": "1",
        "SPA3R_TRAIN_WORKERS": "1",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


def prefect(env: dict[str, str], *arguments: str, timeout: float = 120) -> str:
    done = subprocess.run(
        [str(BIN / "prefect"), *arguments], env=env, cwd=REPO, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_deployed_pretrain_completes_and_registers(
    environment: dict[str, str], tmp_path: Path
) -> None:
    env, home = environment, Path(environment["SPA3R_HOME"])
    before = (REPO / "prefect.yaml").read_bytes()
    with ExitStack() as stack:
        log = tmp_path / "server.log"
        command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1"]
        server = stack.enter_context(
            background([*command, "--port", env["PREFECT_PORT"]], env, log)
        )
        wait_for(f"{env['PREFECT_API_URL']}/health", server, log)
        for pool in ("spa3r-local", "spa3r-cluster"):
            prefect(env, "work-pool", "create", pool, "--type", "process")
        prefect(env, "--no-prompt", "deploy", "--all")
        listed = prefect(env, "deployment", "ls")
        for name in ("ingest/nightly", "pretrain/local", "pretrain/cluster", "promote/local"):
            assert name.split("/")[0] in listed and name.split("/")[1] in listed
        worker_log = tmp_path / "worker.log"
        worker = [str(BIN / "prefect"), "worker", "start", "--pool", "spa3r-local"]
        stack.enter_context(background(worker, env, worker_log))

        spa3r = [str(BIN / "spa3r")]
        rooms = ["rooms", f"{home}/rooms", "--count", "4", "--val", "1", "--size", "224x168"]
        subprocess.run([*spa3r, *rooms, "--frames", "12"], env=env, cwd=tmp_path, check=True)
        overrides = [f"--set={k}={v}" for k, v in json.loads(SETTINGS).items()]
        of_debug = ["--dataset", "rooms", "--recipe", "debug", *overrides]
        for command in (["ingest", f"{home}/rooms"], ["targets"]):
            subprocess.run([*spa3r, *command, *of_debug], env=env, cwd=tmp_path, check=True)
        parameters = ["--param", 'recipe="debug"', "--param", f"overrides={SETTINGS}"]
        name = "pretrain/local"
        out = prefect(env, "deployment", "run", name, "--watch", *parameters, timeout=240)
        assert "Completed" in out, out + worker_log.read_text()

    assert (REPO / "prefect.yaml").read_bytes() == before, "deploy edited prefect.yaml"
    import mlflow

    store = f"sqlite:///{home}/mlflow.db"
    client = mlflow.MlflowClient(store, registry_uri=store)  # an earlier test has set another
    version = client.get_model_version_by_alias("spa3r-encoder", "candidate")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert version.tags["recipe"] == "debug"
    shutil.rmtree(home)
