"""The viewer: its server alone, and its page in headless Chromium (skipped where there is none)."""

import dataclasses
import json
import math
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import viser
from viser import transforms
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from spa3r.errors import ConfigError, ServiceError
from spa3r.latent import SceneLatent
from spa3r.loopback import own_page
from spa3r.viewer import Viewer, view
from spa3r.viewer.window import facts
from spa3r.viewer.worker import Worker
from tests.chromium import CHROMIUM, Page
from tests.ports import free_port
from tests.scene_maker import box_scene, untrained

MAGENTA = (255, 0, 255)


def room(encoder=None) -> SceneLatent:
    """Three views of a room whose surface is magenta."""
    scene = box_scene(3, (24, 32), encoder)
    assert scene.surface is not None
    paint = torch.tensor(MAGENTA, dtype=torch.uint8).expand_as(scene.surface.rgb_Chw3)
    return dataclasses.replace(
        scene,
        surface=dataclasses.replace(scene.surface, rgb_Chw3=paint.contiguous()),
        provenance={**scene.provenance, "teacher": {"kind": "vggt", "uri": "facebook/VGGT-1B"}},
        names=("<script>.jpg", "b.jpg", "c.jpg"),
    )


def far_sighted():
    """The untrained encoder, whose depth is positive: colours of depth maps span what is."""
    encoder = untrained()
    list(encoder.model.depth_prob.parameters())[-1].fill_(1.0)
    return encoder


@pytest.fixture
def show():
    """Makes viewers, which are closed after the test."""
    viewers = []

    def make(scene: SceneLatent) -> Viewer:
        viewers.append(Viewer(scene, port=free_port()))
        return viewers[-1]

    yield make
    for viewer in viewers:
        viewer.close()


# --- without a browser ----------------------------------------------------------------------------


def test_a_taken_port_is_one_line_with_a_free_one() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127.0.0.1:{port} .*port (\d+) is free") as caught:
            Viewer(room(), port=port)
    assert "\n" not in str(caught.value)
    with pytest.raises(ServiceError, match="cannot be listened on"):
        Viewer(room(), host="192.0.2.1", port=free_port())  # no address of this machine
    with pytest.raises(ConfigError, match="65535"):
        Viewer(room(), port=0)
    with pytest.raises(ConfigError, match=r"spiral.*orbit"):
        Viewer(room(), port=free_port(), trajectory="spiral")


def test_only_its_own_pages_are_served_and_the_port_is_free_again(
    capsys: pytest.CaptureFixture,
) -> None:
    port = free_port()
    viewer = view(room(), port=port)
    assert capsys.readouterr().out == f"http://127.0.0.1:{port} shows the scene\n"
    assert viewer.server.request_share_url() is None
    socket_url, version = f"ws://127.0.0.1:{port}", "viser-v1.1.1"
    with connect(socket_url, subprotocols=[version], origin=viewer.url) as own:  # type: ignore
        assert own.recv(timeout=10)
    with (
        connect(socket_url, subprotocols=[version], origin="https://evil.example") as other,  # type: ignore
        pytest.raises(ConnectionClosed) as caught,
    ):
        other.recv(timeout=10)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008
    viewer.close()
    viewer.close()
    viewer.wait()  # returns at once
    Viewer(room(), port=port).close()


def test_own_pages() -> None:
    assert own_page(None, "127.0.0.1:8080", "127.0.0.1")  # no browser
    assert own_page("http://localhost:9000", "localhost:9000", "127.0.0.1")  # through ssh -L
    assert own_page("http://lab:8080", "lab:8080", "0.0.0.0")
    assert not own_page("http://localhost:3000", "localhost:8080", "127.0.0.1")
    assert not own_page("null", "127.0.0.1:8080", "127.0.0.1")
    assert not own_page("http://evil.example:8080", "evil.example:8080", "127.0.0.1")


def test_without_an_encoder_points_in_rgb_and_the_reason(show) -> None:
    viewer = show(room())
    assert viewer.worker.wait(20)
    assert viewer.field is None
    assert viewer.cloud.colour.options == ("RGB", "depth")
    assert viewer.cloud.handle is not None
    assert 0.59 < len(viewer.cloud.handle.points) / (3 * 24 * 32) < 0.62
    viewer.cloud.confidence.value = 0.0
    viewer.cloud.most.value = 1000
    assert viewer.worker.wait(20)
    assert len(viewer.cloud.handle.points) == 1000
    assert show(dataclasses.replace(room(), surface=None)).cloud.handle is None


def test_without_a_surface_the_field_gives_the_points(show) -> None:
    scene = box_scene(2, None, far_sighted())
    viewer = show(scene)
    assert viewer.worker.wait(20)
    assert "RGB" not in viewer.cloud.colour.options
    assert viewer.cloud.handle is not None
    assert len(viewer.cloud.handle.points) == 2 * math.prod(scene.grid_hw)


def test_facts() -> None:
    found = facts(room())
    assert found["Views"] == "3 (<script>.jpg, b.jpg, c.jpg)"
    assert found["Unit of length"].startswith("unknown")
    assert found["Encoder"] == "untrained"
    assert found["Teacher"] == "vggt, facebook/VGGT-1B"
    assert "non-commercial" in found["Licence"]
    assert facts(dataclasses.replace(room(), metres_per_unit=2.5))["Unit of length"] == "2.500 m"


def test_a_worker_drops_what_is_out_of_date_and_outlives_errors() -> None:
    shown: list[list[str]] = []
    worker = Worker(shown.append)
    started, go = threading.Event(), threading.Event()
    ran = []

    def slow() -> None:
        started.set()
        go.wait(10)

    def fail() -> None:
        raise ConfigError("no such thing")

    worker.ask("frame", slow)
    assert started.wait(10)
    for i in range(50):
        worker.ask("frame", lambda i=i: ran.append(i))
    assert not worker.wait(0.01)
    go.set()
    assert worker.wait(10)
    assert ran == [49]
    worker.ask("frame", fail)
    assert worker.wait(10)
    worker.ask("points", lambda: ran.append(-1))
    assert worker.wait(10)
    worker.ask("frame", lambda: None)
    assert worker.wait(10)
    assert (ran, shown) == ([49, -1], [["no such thing"], []])
    worker.close()


def test_the_command_ends_with_ctrl_c(tmp_path: Path) -> None:
    path, port = tmp_path / "scene.safetensors", free_port()
    room().save(path)
    program = (
        "import argparse; from spa3r.view_commands import register;"
        "p = argparse.ArgumentParser();"
        "register(lambda name, run, summary, text: (p.set_defaults(run=run), p)[1]);"
        "a = p.parse_args(); a.run(a)"
    )
    command = [sys.executable, "-c", program, str(path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"http://127.0.0.1:{port} shows the scene\n"
        assert process.stdout.readline() == b"Ctrl-C ends it\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def page(show):  # ends before the viewers do: they would wait for it to say goodbye
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Page(folder)
        yield page
        page.close()


def share(image_HW3: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image_HW3[..., :3].astype(int) - colour).max(-1) < 12).mean())


def spread(image_HW3: np.ndarray) -> bool:
    """Whether many pixels are of several colours of viridis."""
    blue_to_green = image_HW3[..., 1] > 1.2 * image_HW3[..., 0].astype(float)
    return bool(blue_to_green.mean() > 0.4 and image_HW3[blue_to_green].std(axis=0)[1] > 10)


IMAGES = "[...document.images].map(i => i.src).join()"
NEW_IMAGES = f"""new Promise(done => {{
    const look = () => {IMAGES} == OLD ? requestAnimationFrame(look) : done({IMAGES}); look() }})"""


def test_the_page(page: Page, show) -> None:
    scene = room(far_sighted())
    viewer = show(scene)
    connected = threading.Event()
    viewer.server.on_client_connect(lambda _: connected.set())
    page.call("Network.enable")
    page.call("Page.navigate", url=viewer.url)
    assert connected.wait(30)
    client = next(iter(viewer.server.get_clients().values()))
    assert viewer.worker.wait(30)

    # Frusta show their images, which are of the same colour.
    for number in range(scene.num_views):
        frustum = viewer.server.scene.get_handle_by_name(f"/context/{number}")
        assert frustum is not None
        frustum.visible = False

    # The room from view 0 fills the picture with the colour of its walls.
    def pictures() -> Iterator[np.ndarray]:
        stand = {"wxyz": np.array([1.0, 0, 0, 0]), "position": np.zeros(3), "fov": math.radians(50)}
        for _ in range(5):  # viser may draw one frame with points of the size 1 after a change
            yield client.get_render(100, 130, **stand, transport_format="png", timeout=20)

    viewer.cloud.confidence.value = 0.0
    viewer.cloud.size.value = 2.5
    assert viewer.worker.wait(20)
    assert any(share(picture, MAGENTA) > 0.7 for picture in pictures())
    viewer.cloud.colour.value = "depth"
    assert viewer.worker.wait(20)
    assert any(share(picture, MAGENTA) == 0 < spread(picture) for picture in pictures())

    # A moved slider: another camera, other predictions, on the server and in the page.
    assert viewer.field is not None
    before = viewer.field.features.image, viewer.field.depth.image
    frustum = viewer.server.scene.get_handle_by_name("/trajectory/camera")
    assert frustum is not None
    position, shown = np.array(frustum.position), page.run(IMAGES)
    viewer.field.frame.value = 20
    assert viewer.worker.wait(20)
    after = viewer.field.features.image, viewer.field.depth.image
    for old, new in zip(before, after, strict=True):
        assert np.abs(old.astype(int) - new).max() > 20
    assert not np.allclose(frustum.position, position)
    assert page.run(NEW_IMAGES.replace("OLD", json.dumps(shown))) != shown

    # It plays by itself until it is stopped.
    viewer.field.play.value = True
    moved = threading.Event()
    viewer.field.frame.on_update(lambda _: moved.set())
    assert moved.wait(20)
    assert viewer.field.play.label == "Pause"
    viewer.field.play.value = True
    assert viewer.field.play.label == "Play"
    assert viewer.worker.wait(20)
    own = urlsplit(viewer.url).netloc
    page.call("Runtime.evaluate", expression="0")  # what was asked before is in its events now
    asked = [urlsplit(url) for url in page.asked()]
    assert len(asked) >= 2
    assert {url.netloc for url in asked if url.scheme not in ("data", "blob")} == {own}


def test_a_click_on_a_frustum_moves_the_view_there(page: Page, show) -> None:
    viewer = show(room())
    viewer.cloud.size.value = 0.2  # quick to draw without a GPU
    connected = threading.Event()
    viewer.server.on_client_connect(lambda _: connected.set())
    page.call("Page.navigate", url=viewer.url)
    assert connected.wait(30)
    camera = next(iter(viewer.server.get_clients().values())).camera
    frustum = viewer.server.scene.get_handle_by_name("/context/0")
    assert frustum is not None
    ahead = transforms.SO3(frustum.wxyz).as_matrix()[:, 2]

    # The page says where it looks from again once its panel has taken its place.
    start = viewer.server.initial_camera.position
    width = 640 - 300
    assert until(
        camera, lambda now: np.allclose(now.position, start, atol=1e-3) and now.image_width < width
    )
    page_from_world = transforms.SO3(camera.wxyz).inverse().as_matrix()
    point = page_from_world @ (frustum.position + 0.05 * ahead - camera.position)
    focal = camera.image_height / 2 / math.tan(camera.fov / 2)
    place = focal * point[:2] / point[2] + [camera.image_width / 2, camera.image_height / 2]
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1],
                  button="none" if kind == "mouseMoved" else "left", clickCount=1)  # fmt: skip

    def there(now: viser.CameraHandle) -> bool:
        moved, seen = now.position - frustum.position, now.look_at - now.position
        on_axis = np.linalg.norm(np.cross(moved, ahead)) < 1e-3 and 0 < moved @ ahead < 0.5
        return bool(on_axis and np.linalg.norm(np.cross(seen, ahead)) < 1e-3 < seen @ ahead)

    assert until(camera, there)


def until(camera: viser.CameraHandle, check: Callable[[viser.CameraHandle], bool]) -> bool:
    """Whether the page's camera fulfils it, now or within 20 s."""
    fulfilled = threading.Event()
    camera.on_update(lambda now: fulfilled.set() if check(now) else None)
    return check(camera) or fulfilled.wait(20)
