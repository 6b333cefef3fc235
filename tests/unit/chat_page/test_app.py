"""The page's server: what it answers, and what it refuses, over real connections."""

import asyncio
import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from spa3r.chat_page import ChatPage
from spa3r.chat_page.app import MAX_WAITING, Desk, one_line
from spa3r.chat_page.guard import content_policy
from spa3r.chat_page.seen import Scans, Seen
from spa3r.errors import ConfigError, SceneError, ServiceError
from spa3r.vision_input import SceneViews, prepare_scene
from tests.ports import free_port
from tests.unit.chat_page.fakes import FakeModel

NOTHING = Seen(views=prepare_scene(np.zeros((1, 84, 84, 3), np.uint8), width=84, multiple=28))


def photo(size: tuple[int, int] = (120, 90), kind: str = "JPEG", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Client:
    """Requests to a page, as its own script sends them."""

    def __init__(self, page: ChatPage) -> None:
        self.netloc = urlsplit(page.url).netloc

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.netloc, timeout=20)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status, and the answer's JSON (of lines: all of them)."""
        connection = self.connect()
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        lines = [json.loads(line) for line in answer.read().decode().splitlines()]
        connection.close()
        return answer.status, lines if path == "/api/answers" and answer.status == 200 else lines[0]

    def upload(self, data: bytes, name: str = "a.jpg") -> tuple[int, Any]:
        return self.ask("POST", f"/api/photos?name={quote(name)}", data)

    def scene(self) -> str:
        """A scene of one photo."""
        photos = [self.upload(photo())[1]["photo"]]
        return self.ask("POST", "/api/scenes", {"photos": photos})[1]["scene"]


def read_scan(name: str) -> SceneViews:
    if name == "broken":
        raise SceneError("broken: no good frame")
    return prepare_scene(np.zeros((3, 84, 84, 3), np.uint8), width=84, multiple=28)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Client, FakeModel]]:
    model, scans = FakeModel(), Scans(names=("scene0000_00", "broken"), read=read_scan)
    with ChatPage(model, scans=scans, port=free_port()) as page:
        yield Client(page), model


@pytest.fixture
def model(served: tuple[Client, FakeModel]) -> FakeModel:
    """The one behind the page, with nothing seen."""
    served[1].__init__()
    return served[1]


@pytest.fixture
def client(served: tuple[Client, FakeModel], model: FakeModel) -> Client:
    return served[0]


def error_of(found: tuple[int, Any], status: int = 400) -> str:
    """The error of an answer, which is one line."""
    assert found[0] == status, found
    assert list(found[1]) == ["error"] and "\n" not in found[1]["error"]
    return found[1]["error"]


# --- what it answers ------------------------------------------------------------------------------


def test_photos_are_seen_asked_and_answered(client: Client, model: FakeModel) -> None:
    sent = [client.upload(photo(), f"{i}.jpg")[1] for i in range(2)]
    assert [one["name"] for one in sent] == ["0.jpg", "1.jpg"]
    status, scene = client.ask("POST", "/api/scenes", {"photos": [one["photo"] for one in sent]})
    assert status == 200 and [view["name"] for view in scene["views"]] == ["0.jpg", "1.jpg"]
    assert scene["views"][0]["maps"]["geometric"].startswith("data:image/jpeg;base64,")
    assert model.looked[0].rgb_VHW3.shape == (2, 56, 84, 3)
    assert model.looked[0].source_sizes == ((120, 90), (120, 90))
    asked = {"scene": scene["scene"], "question": " How many? "}
    status, lines = client.ask("POST", "/api/answers", asked)
    assert "".join(line.get("text", "") for line in lines) == "How many? "
    assert lines[-2:] == [{"seconds": 0.5, "truncated": False}, {"shares": [0.5, 0.5]}]


def test_photos_are_the_pixels_that_files_on_the_disk_are(
    client: Client, model: FakeModel, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    cut_out = Image.new("RGBA", (90, 120), (255, 0, 0, 0))
    cut_out.save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(photo(exif=exif))
    names = ["a.jpg", "b.png"]
    sent = [client.upload((tmp_path / name).read_bytes(), name)[1]["photo"] for name in names]
    client.ask("POST", "/api/scenes", {"photos": sent})
    expected = prepare_scene([tmp_path / name for name in names], width=84, multiple=28)
    assert np.array_equal(model.looked[0].rgb_VHW3, expected.rgb_VHW3)
    assert model.looked[0].source_sizes == expected.source_sizes == ((90, 120), (90, 120))
    assert (model.looked[0].rgb_VHW3[1] == 255).all()  # what is transparent is white


def test_a_scan_is_chosen_by_name_and_never_a_path(client: Client, model: FakeModel) -> None:
    status, scene = client.ask("POST", "/api/scenes", {"scan": "scene0000_00"})
    assert status == 200 and len(scene["views"]) == 3
    for name in ("../secret", "/etc/passwd", "scene0000_00/../x"):
        assert "no scan" in error_of(client.ask("POST", "/api/scenes", {"scan": name}))
    assert error_of(client.ask("POST", "/api/scenes", {"scan": "broken"})) == (
        "broken: no good frame"
    )
    assert len(model.looked) == 1


def test_what_the_page_shows_first(client: Client) -> None:
    status, about = client.ask("GET", "/api/about")
    assert status == 200 and about["scans"] == ["scene0000_00", "broken"]
    assert about["facts"][0] == ["Model", "<fake>"] and about["photosRefused"] == ""


def test_a_model_that_needs_depth_says_so() -> None:
    model = FakeModel()
    model.photos_refused = "photos without depth need another encoder"
    with ChatPage(model, port=free_port()) as page:
        client = Client(page)
        assert client.ask("GET", "/api/about")[1]["photosRefused"] == model.photos_refused
        assert error_of(client.upload(photo())) == model.photos_refused


# --- hostile uploads ------------------------------------------------------------------------------


def test_what_is_no_image_is_refused_in_one_line(client: Client) -> None:
    for data in (b"", b"<html></html>", photo()[:200], b"\x00" * 4096, photo(kind="GIF")):
        assert "a.jpg" in error_of(client.upload(data))
    cut = error_of(client.upload(photo((400, 300), "PNG")[:-9000], "cut.png"))
    assert cut.startswith("cut.png: does not decode")


def test_200_megabytes_are_refused_before_they_are_sent(client: Client) -> None:
    connection = client.connect()
    connection.putrequest("POST", "/api/photos?name=big.jpg")
    connection.putheader("Content-Length", "200000000")
    connection.endheaders()
    answer = connection.getresponse()  # not a byte of the body was sent
    assert error_of((answer.status, json.load(answer)), 413).startswith("photo: larger than")
    assert answer.getheader("connection") == "close"
    connection.close()


def test_200_megabytes_without_a_length_are_refused_while_they_stream(client: Client) -> None:
    connection = client.connect()
    connection.putrequest("POST", "/api/photos?name=big.jpg")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    sent, chunk = 0, b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    try:
        while sent < 200_000_000:
            connection.send(chunk)
            sent += 1 << 16
    except OSError:  # the server hung up
        pass
    assert sent < 60_000_000  # its limit, and what the two systems hold in between
    connection.close()
    assert client.upload(photo())[0] == 200  # and goes on


@pytest.mark.parametrize(
    "name", ["../../x", "..\\..\\x", "/etc/x", "x\n", "C:\\x", "\x1b]0;\x07/x"]
)
def test_a_name_is_only_a_label(client: Client, name: str) -> None:
    assert client.upload(photo(), name)[1]["name"] == "x"


def test_uploads_leave_no_files(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert client.upload(photo(), "../../x")[0] == 200
    assert client.upload(bytes(3_000_000), "../../x")[0] == 400
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "er", "temporary"]


def test_pictures_that_decode_to_gigabytes_are_refused(client: Client) -> None:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    assert len(out.getvalue()) < 100_000
    assert "9000 x 9000 pixels" in error_of(client.upload(out.getvalue(), "bomb.png"))


def test_photos_of_two_shapes_or_too_many_or_forgotten_ones(client: Client) -> None:
    wide, tall = (client.upload(photo(size), f"{size[0]}.jpg")[1]["photo"] for size in
                  ((120, 60), (60, 120)))  # fmt: skip
    found = error_of(client.ask("POST", "/api/scenes", {"photos": [wide, tall]}))
    assert "120.jpg comes to 84 x 28" in found and "60.jpg comes to 84 x 84" in found
    assert "at most 4" in error_of(client.ask("POST", "/api/scenes", {"photos": [wide] * 5}))
    assert "no photos" in error_of(client.ask("POST", "/api/scenes", {"photos": []}))
    for _ in range(8):  # the store holds twice a scene
        client.upload(photo())
    assert "no longer kept" in error_of(client.ask("POST", "/api/scenes", {"photos": [wide]}))


# --- hostile requests -----------------------------------------------------------------------------


SENSELESS = (
    b"", b"[]", b"{", b"\xff", b'{"photos": "abc"}', b"{}", b'{"photos": [1]}', b'{"scan": ["x"]}',
    b"[" * 900_000,
)  # fmt: skip


@pytest.mark.parametrize("body", SENSELESS, ids=range(len(SENSELESS)))
def test_a_request_that_makes_no_sense(client: Client, body: bytes) -> None:
    error_of(client.ask("POST", "/api/scenes", body))
    error_of(client.ask("POST", "/api/answers", body))


def test_a_question_has_a_limit(client: Client) -> None:
    scene = client.scene()
    asked = {"scene": scene, "question": "x" * 100_000}
    assert "100,000 characters" in error_of(client.ask("POST", "/api/answers", asked))
    asked["question"] = " \n"
    assert "question" in error_of(client.ask("POST", "/api/answers", asked))
    asked = {"scene": "nowhere", "question": "x"}
    assert "no longer kept" in error_of(client.ask("POST", "/api/answers", asked))


def test_other_pages_are_refused(client: Client) -> None:
    own = f"http://{client.netloc}"
    assert client.ask("GET", "/api/about", Origin=own)[0] == 200
    assert client.ask("GET", "/api/about", Host="localhost:8090")[0] == 200  # through ssh -L
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "evil.example"},  # a name that was made to resolve to loopback
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "[::"},
    ):
        assert "only to itself" in error_of(client.ask("GET", "/api/about", **headers), 403)
    body = {"photos": []}
    refused = client.ask("POST", "/api/scenes", body, Origin="http://127.0.0.1:1")
    assert "only to itself" in error_of(refused, 403)


def test_the_page_may_load_nothing_from_elsewhere(client: Client) -> None:
    connection = client.connect()
    connection.request("GET", "/")
    answer = connection.getresponse()
    html, policy = answer.read().decode(), answer.getheader("content-security-policy") or ""
    assert policy == content_policy(html)
    assert policy.startswith("default-src 'none'") and policy.count("sha256-") == 2
    assert "unsafe" not in policy and "http" not in policy
    assert "http" not in html and "//" not in html.replace("// ", "")
    assert client.ask("GET", "/docs")[0] == client.ask("GET", "/openapi.json")[0] == 404


# --- one at a time --------------------------------------------------------------------------------


def test_one_question_at_a_time(client: Client, model: FakeModel) -> None:
    scene = client.scene()
    found: list[Any] = []

    def ask() -> None:
        asked = {"scene": scene, "question": "word " * 40}
        found.append(client.ask("POST", "/api/answers", asked)[1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [lines[-1].get("shares") for lines in found] == [[1]] * 4
    assert model.most_at_work == 1


def test_a_full_queue_sends_away() -> None:
    async def wait(desk: Desk, go: asyncio.Event) -> None:
        async with desk.turn():
            await go.wait()

    async def crowd() -> None:
        desk, go = Desk(FakeModel(), Scans()), asyncio.Event()
        waiting = [asyncio.create_task(wait(desk, go)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        late = [json.loads(line) async for line in desk.answer(NOTHING, "x")]
        assert "too many" in late[0]["error"]
        go.set()
        await asyncio.gather(*waiting)
        assert [json.loads(line) async for line in desk.answer(NOTHING, "x")][-1]["shares"] == [1]

    asyncio.run(crowd())


def test_an_answer_ends_when_nobody_listens(client: Client, model: FakeModel) -> None:
    scene = client.scene()
    words: list[str] = []
    go = threading.Event()

    def count(word: str) -> None:
        words.append(word)
        if len(words) == 2:
            assert go.wait(20)

    model.before_word = count
    connection = client.connect()
    body = json.dumps({"scene": scene, "question": "word " * 700})
    connection.request("POST", "/api/answers", body)
    answer = connection.getresponse()
    # The first word is here while the second is not written yet.
    assert answer.readline() == b'{"state": "answering"}\n'
    assert answer.readline() == b'{"text": "word "}\n'
    assert not go.is_set() and not model.closed.is_set()
    answer.close()
    connection.close()
    go.set()
    assert model.closed.wait(20)
    assert len(words) < 700
    model.before_word = lambda word: None
    assert client.ask("POST", "/api/answers", {"scene": scene, "question": "x"})[1][1]["text"]


def test_an_error_of_the_model_is_one_line_of_the_answer(client: Client) -> None:
    found = client.ask("POST", "/api/answers", {"scene": client.scene(), "question": "fail"})
    assert found[1] == [{"state": "answering"}, {"error": "this cannot be answered"}]
    assert one_line(OSError()) == "OSError"


# --- the server -----------------------------------------------------------------------------------


def test_a_taken_port_and_a_closed_page() -> None:
    model, port = FakeModel(), free_port()
    with ChatPage(model, port=port) as page:
        with pytest.raises(ServiceError, match=r"port \d+ is free"):
            ChatPage(model, port=port)
        page.close()
    ChatPage(model, port=port).close()  # it is free again
    with pytest.raises(ConfigError, match="65535"):
        ChatPage(model, port=0)


def test_an_upload_that_never_ends_is_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spa3r.chat_page.uploads.SECONDS", 0.05)
    connection = client.connect()
    connection.putrequest("POST", "/api/photos?name=slow.jpg")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"half")
    answer = connection.getresponse()
    assert "not received within" in error_of((answer.status, json.load(answer)), 408)
    connection.close()
