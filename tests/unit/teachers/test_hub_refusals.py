"""What Hugging Face may answer, each as one line with the way out; no network."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors as hub

from spa3r.errors import TeacherError
from spa3r.teachers.checkpoints import load_state_dict
from tests.hub_answers import http_error


def refuse(error: Exception):
    def download(repo: str, name: str) -> str:
        raise error

    return download


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(hub.GatedRepoError, 403), "https://huggingface.co/owner/m"),
        (http_error(hub.RepositoryNotFoundError, 401), "licence"),
        (http_error(hub.HfHubHTTPError, 403), "licence"),
        (http_error(hub.HfHubHTTPError, 500), "HTTP 500"),
        (http_error(hub.RemoteEntryNotFoundError, 404), "holds none of"),
        (hub.LocalEntryNotFoundError("x"), "out of reach"),
        (hub.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (ConnectionError("no route"), "no route"),
    ],
)
def test_hugging_face_troubles_are_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse(error))
    with pytest.raises(TeacherError, match=message) as caught:
        load_state_dict("owner/model")
    assert "\n" not in str(caught.value)
    assert "owner/model" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("kind", [hub.GatedRepoError, hub.HfHubHTTPError])
def test_a_gated_dinov3_names_every_way_out(
    kind: type, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse(http_error(kind, status)))
    repo, page = "facebook/dinov3-vitl16-pretrain-lvd1689m", "https://huggingface.co/"
    with pytest.raises(TeacherError) as caught:
        load_state_dict(repo)
    ways = (f"HTTP {status}", page + repo, "hf auth login", "give the folder's path",
            "teacher.semantic='dinov2'")  # fmt: skip
    assert all(way in str(caught.value) for way in ways)
    assert "\n" not in str(caught.value)
    with pytest.raises(TeacherError) as caught:
        load_state_dict("facebook/VGGT-1B")
    assert "dinov2" not in str(caught.value)


ASK = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(int(self.path.split("/")[2]))
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *_):
        pass

import os
server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from spa3r.errors import TeacherError
from spa3r.teachers.checkpoints import load_json
for status in (401, 403):
    try:
        load_json(f"owner/{status}", "config.json")
    except TeacherError as error:
        print(error)
"""


def test_what_the_real_client_makes_of_a_refusal(tmp_path: Path) -> None:
    """It wraps a 403 without the hub's own header into "not found in the cache"."""
    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT"}
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for status, line in zip((401, 403), lines, strict=True):
        assert f"access not granted (HTTP {status})" in line and "hf auth login" in line
