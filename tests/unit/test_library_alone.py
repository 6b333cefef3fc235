"""The library as pip installs it, alone and with the extra `view`: nothing else can be imported."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest
from packaging.requirements import Requirement

from tests.scan_arrays import scan_arrays
from tests.sens_maker import make_sens
from tests.untrained import save_untrained, untrained_photographer

REPO = Path(__file__).resolve().parents[2]
OURS = {"spa3r", "preprocessing", "flows", "tests", "benchmarks"}

# Answers each command with [exit code or the exception's name, what it printed].
PROGRAM = """
import contextlib, importlib.machinery, io, json, logging, sys, traceback

hidden, commands = json.load(open("plan.json"))
hidden = set(hidden)

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder

from spa3r.cli import main

def call(words):
    if words[0] != "python":
        return main(words)
    exec(words[1], {})
    return 0

answers = {}
for name, words in commands.items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = call(words)
        except (Exception, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) else type(error).__name__
            if code != 0:
                said.write(f"{error}\\n" if code == "ConfigError" else traceback.format_exc())
    answers[name] = [code, said.getvalue()]
json.dump(answers, open("answers.json", "w"))
"""

CHAMPION = "models:/spa3r-encoder@champion"
LOAD = "from spa3r.hub import Spa3REncoder; Spa3REncoder.from_pretrained"
SCENE = "photos.safetensors"
COMMANDS = {
    "photos": ["encode", "photos", "-o", SCENE, "--encoder", "photographer/encoder"],
    "scan": ["encode", "scan.sens", "-o", "scan.safetensors", "--encoder", "sensor"],
    "npz": ["query", SCENE, "-o", "q.npz", "--encoder", "photographer/encoder"],
    "png": ["query", "scan.safetensors", "-o", "q.png", "--encoder", "sensor", "--view", "1"],
    "export ply": ["export", SCENE, "-o", "e.ply"],
    "export npz": ["export", SCENE, "-o", "e.npz"],
    "export gif": ["export", SCENE, "-o", "e.gif", "--max-points", "200"],
    "export glb": ["export", SCENE, "-o", "e.glb"],
    "export colmap": ["export", SCENE, "-o", "e-colmap"],
    "export mp4": ["export", SCENE, "-o", "e.mp4", "--max-points", "200"],
    "convert": ["convert", "--help"],
    "viewer": ["python", "from spa3r.viewer import view"],
    "chat page": ["python", "from spa3r.chat_page import ChatPage"],
    "default encoder": ["encode", "photos", "-o", "x.safetensors"],
    "registry": ["python", f"{LOAD}({CHAMPION!r})"],
}
VIEW = {"export glb", "export colmap", "export mp4", "viewer"}
MLFLOW = "needs mlflow, which is not installed"
REFUSED = {
    "chat page": "pip install 'spa3r-platform[chat]'",
    "default encoder": f"{MLFLOW}: give --encoder FOLDER or a Hugging Face id, or pip install"
    " 'spa3r-platform[platform]'",
    "registry": f"{CHAMPION} {MLFLOW}: give a folder or a Hugging Face id, or pip install"
    " 'spa3r-platform[platform]'",
}


def needed(requirements: list[str]) -> set[str]:
    """Names of the distributions that pip would install for these, by their own metadata."""
    todo, done = [Requirement(text) for text in requirements], set()
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = normal(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in done:
            continue
        done.add(key)
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            wanted = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in wanted):
                todo.append(inner)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def hidden_without(extras: list[str]) -> set[str]:
    """Modules of this environment that an installation with these extras would not have."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    keep = needed(requirements)
    modules = importlib.metadata.packages_distributions().items()
    return {m for m, owners in modules if not keep & {normal(name) for name in owners}} - OURS


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_untrained(folder / "sensor")
    untrained_photographer(folder / "vggt").save_pretrained(folder / "photographer/encoder")
    make_sens(folder / "scan.sens", frames=3)
    (folder / "photos").mkdir()
    for i, image in enumerate(scan_arrays(views=3, width=112, height=84)["images"]):
        cv2.imwrite(str(folder / "photos" / f"{i}.jpg"), image)
    return folder


def answers(inputs: Path, folder: Path, hidden: set[str]) -> dict[str, tuple[int | str, str]]:
    for path in inputs.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "plan.json").write_text(json.dumps([sorted(hidden), COMMANDS]))
    own = ("SPA3R_", "MLFLOW_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize("extras", [[], ["view"]], ids=["base", "view"])
def test_commands_work_or_name_the_extra(extras: list[str], inputs: Path, tmp_path: Path) -> None:
    hidden = hidden_without(extras)
    view = {"viser", "trimesh", "av", "pycolmap"}
    assert {"mlflow", "prefect", "ray", "scipy", "sqlalchemy", "webdataset", "open3d"} <= hidden
    assert view & hidden == (set() if extras else view) and not hidden & {"torch", "cv2", "rich"}
    refused = REFUSED | ({} if extras else dict.fromkeys(VIEW, "pip install 'spa3r-platform[view]"))
    found = answers(inputs, tmp_path, hidden)
    for name, (code, said) in found.items():
        if name in refused:
            assert code in (1, "ConfigError") and refused[name] in said, f"{name}: {code} {said}"
            assert said.count("\n") == 1, f"{name}: {said}"
        else:
            assert code == 0, f"{name}: {code} {said}"
    written = {path.name for path in tmp_path.iterdir()}
    wanted = {"q.npz", "q.png", "e.ply", "e.npz", "e.gif"}
    wanted |= {"e.glb", "e.mp4", "e-colmap"} if extras else set()
    assert {name for name in written if name.startswith(("q.", "e.", "e-"))} == wanted
    assert "x.safetensors" not in written and not any("mlflow" in name for name in written)
