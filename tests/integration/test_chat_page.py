"""The chat page with a real model: photos are dropped and asked about in headless Chromium."""

import json
import os
import signal
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from preprocessing.rooms.spec import RoomSpec
from preprocessing.rooms.writer import write_rooms
from spa3r import chat_commands
from spa3r.chat_page import ChatPage
from spa3r.chat_page.seen import Answered, Scans, Written
from spa3r.chat_page.vlm_chat import VlmChat
from spa3r.instructions import Turn
from spa3r.tune_config import FusionConfig
from spa3r.vision_input import SceneViews, prepare_scene
from spa3r.vlm.spa3_vlm import Request, Spa3VLM
from tests.chromium import CHROMIUM, Page
from tests.commands import parser_of
from tests.ports import free_port
from tests.tiny_vlm import tiny_config, tiny_vlm
from tests.untrained import untrained_photographer

QUESTION = "How many chair(s) are in this room?"
ROOM = "scene0000_00 (held out)"
SLOW = 20_000  # milliseconds that the page gets for anything


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Spa3VLM:
    """Tiny and not tuned; its encoder is taught by a small VGGT, so that photos are enough."""
    return tiny_vlm(encoder=untrained_photographer(tmp_path_factory.mktemp("vggt")), stir=True)


def a_room(name: str) -> SceneViews:
    """Two views, as of a scan."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (2, 84, 112, 3), dtype=np.uint8)
    return prepare_scene(images, width=112, multiple=28)


@pytest.fixture(scope="module")
def tab(vlm: Spa3VLM) -> Iterator[tuple[Page, str]]:
    """A tab, and the page's address."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with (
        ChatPage(VlmChat(vlm), scans=Scans(names=(ROOM,), read=a_room), port=free_port()) as chat,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        page = Page(folder, size=(1180, 1000))
        try:
            page.call("Network.enable")
            page.call("Page.enable")
            page.call("Log.enable")
            yield page, chat.url
        finally:
            page.close()


@pytest.fixture
def page(tab: tuple[Page, str]) -> tuple[Page, str]:
    """The tab, which shows the page as it is at first, and the page's address."""
    page, url = tab
    page.call("Log.clear")
    page.call("Page.navigate", url=url)
    until(page, "typeof page == 'object' && page.about && !page.scene")
    page.events[:] = [e for e in page.events if e["method"] != "Log.entryAdded"]
    return tab


def until(page: Page, condition: str) -> None:
    """Waits until an expression is true in the page."""
    found = page.run(
        f"""new Promise((done) => {{
        const end = performance.now() + {SLOW};
        const look = () => {{
          if ({condition}) done(true);
          else if (performance.now() > end) done(false);
          else requestAnimationFrame(look);
        }};
        look(); }})"""
    )
    assert found, f"{condition}: not within {SLOW} ms; the page says {page.run(TEXT)}"


TEXT = "document.body.innerText"


def drop(page: Page, *paths: Path) -> None:
    """Files from the desktop, let go over the page's field for photos."""
    x, y = page.run("(({x, y}) => [x + 40, y + 20])(at('drop').getBoundingClientRect())")  # type: ignore
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)


def photos(folder: Path, count: int = 3) -> list[Path]:
    """Different pictures of one shape."""
    rng = np.random.default_rng(0)
    paths = [folder / f"view{v}.jpg" for v in range(count)]
    for v, path in enumerate(paths):
        blocks = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((320, 240), Image.Resampling.NEAREST)
        image.rotate(5 * v).save(path, quality=95)
    return paths


def test_photos_are_dropped_asked_about_and_answered(
    page: tuple[Page, str], vlm: Spa3VLM, tmp_path: Path
) -> None:
    tab, url = page
    paths = photos(tmp_path)
    drop(tab, *paths)
    until(tab, "page.scene && !page.busy")
    assert tab.run("document.querySelectorAll('#views li').length") == 3
    sizes = "[...document.querySelectorAll('#views img')].map((i) => i.naturalWidth).join()"
    assert tab.run(sizes) == ",".join(["360"] * 6)
    features = tab.run("page.views[0].map.src")
    tab.run("[...at('kinds').children].find((b) => b.textContent == 'depth').click()")
    assert tab.run("page.views[0].map.src") != features

    tab.run(f"at('question').value = {json.dumps(QUESTION)}")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
    until(tab, "!page.busy && at('latest').children.length")
    expected = vlm.ask(list(paths), QUESTION)
    assert expected.text
    assert tab.run("document.querySelector('.turn .text').textContent") == expected.text

    request = Request(turns=(Turn(role="user", text=QUESTION),), views=vlm.views(list(paths)))
    shares = vlm.view_shares(request, expected.text)
    assert shares is not None and sum(shares) == pytest.approx(1, abs=1e-4)
    shown = tab.run("page.views.map((v) => v.percent.textContent).join()")
    assert shown == ",".join(f"{100 * share:.1f} %" for share in shares)
    widest = tab.run("page.views.map((v) => v.bar.style.width)")
    assert isinstance(widest, list) and widest[int(np.argmax(shares))] == "100%"

    # One of the rooms instead, asked with the button.
    tab.run("at('open').click()")
    until(tab, "page.views.length == 2 && !page.busy")
    assert ROOM in str(tab.run("at('seen-title').textContent"))
    tab.run(f"at('question').value = {json.dumps(QUESTION)}; at('ask').click()")
    until(tab, "!page.busy && at('latest').children.length")
    assert tab.run("page.views.every((v) => v.percent.textContent.endsWith(' %'))")

    tab.run("0")  # what was asked before is in its events now
    asked = [urlsplit(address) for address in tab.asked()]
    assert {a.netloc for a in asked if a.scheme not in ("data", "blob")} == {urlsplit(url).netloc}
    assert [e for e in tab.events if e["method"] == "Log.entryAdded"] == []


def test_hostile_files_are_one_line_in_the_page(page: tuple[Page, str], tmp_path: Path) -> None:
    tab, _ = page
    (tmp_path / "notes.jpg").write_text("<script>alert(1)</script>")
    with (tmp_path / "big.jpg").open("wb") as f:
        f.truncate(200_000_000)
    drop(tab, tmp_path / "notes.jpg", tmp_path / "big.jpg")
    until(tab, "!at('problem').hidden && !page.busy")
    problem = str(tab.run("at('problem').innerText"))
    assert "notes.jpg: not a JPEG" in problem and "big.jpg: larger than 20 MB" in problem
    assert "\n" not in problem and tab.run("at('seen').hidden")

    # The server itself refuses what a page without that check sends it.
    status = tab.run("""fetch("/api/photos?name=" + encodeURIComponent("../../x"),
        {method: "POST", body: new Blob([new Uint8Array(200000000)])})
        .then((answer) => answer.status, (error) => String(error))""")
    assert status == 413 or "Failed to fetch" in str(status)

    drop(tab, *photos(tmp_path, 1))  # and it goes on
    until(tab, "page.scene && !page.busy && at('problem').hidden")


# --- without a browser ----------------------------------------------------------------------------


def test_the_command_shows_the_rooms_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an encoder that needs depth: scans alone, held-out ones first."""
    spec = RoomSpec(width=160, height=120, frames=5)
    write_rooms(tmp_path / "rooms", [0, 1], spec, val_scenes=[1])
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setattr("spa3r.ask_commands.load_vlm", lambda *_, **__: tiny_vlm(stir=True))
    port, found = free_port(), {}

    def visit() -> None:
        try:
            found["about"] = ask(port, "about")[0]
            (found["scene"],) = ask(port, "scenes", scan=found["about"]["scans"][0])
            found["answer"] = ask(port, "answers", scene=found["scene"]["scene"], question=QUESTION)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    arguments = parser_of(chat_commands.register).parse_args(["chat", "--port", str(port)])
    visitor = threading.Thread(target=visit)
    visitor.start()
    arguments.run(arguments)
    visitor.join()
    assert capsys.readouterr().out == f"http://127.0.0.1:{port} answers; Ctrl-C ends it\n"
    assert found["about"]["scans"] == ["scene0001_00 (held out)", "scene0000_00"]
    assert "VGGT-taught" in found["about"]["photosRefused"]
    assert found["scene"]["views"][0]["name"] == "frame-000000"
    assert list(found["scene"]["views"][0]["maps"])[-1] == "depth"
    assert found["scene"]["views"][0]["name"] == "frame-000000"


def ask(port: int, what: str, **body: str) -> list[Any]:
    """Lines of the answer of a page that may still be starting."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{what}", data)
    pause = threading.Event()
    for _ in range(200):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return [json.loads(line) for line in answer]
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            pause.wait(0.1)
    raise TimeoutError(f"nothing answers on port {port}")


def test_another_host_is_warned_of(
    vlm: Spa3VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setattr("spa3r.ask_commands.load_vlm", lambda *_, **__: vlm)
    monkeypatch.setattr("spa3r.chat_page.ChatPage.wait", lambda page: page.close())
    parser = parser_of(chat_commands.register)
    arguments = parser.parse_args(["chat", "--port", str(free_port()), "--host", "0.0.0.0"])
    arguments.run(arguments)  # without rooms there are no scans to choose
    assert "0.0.0.0 is no loopback address" in caplog.text


def test_what_a_fusion_without_geometry_shows(tmp_path: Path) -> None:
    chat = VlmChat(tiny_vlm(config=tiny_config(fusion=FusionConfig(kind="none"))))
    assert chat.facts["Geometry"] == "none" and chat.photos_refused == ""
    views = chat.vlm.views(photos(tmp_path, 2))
    seen = chat.look(views)
    assert seen.maps == {} and seen.inner.geometry is None
    *text, whole, end = chat.answer(seen, QUESTION)
    assert isinstance(whole, Written) and whole.seconds > 0
    assert isinstance(end, Answered) and len(end.view_shares or ()) == 2
    assert "".join(map(str, text)) == chat.vlm.ask(list(photos(tmp_path, 2)), QUESTION).text
