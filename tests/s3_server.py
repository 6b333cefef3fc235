"""An S3 server on loopback, and a proxy before it that counts requests and loses some of them."""

import http.client
import logging
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, urlsplit

from tests.ports import free_port

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_INTERNAL = b"<Error><Code>InternalError</Code><Message>We met an error.</Message></Error>"
_FAULTS = ("slow", "internal", "refused", "lost", "cut")


@dataclass
class Gate:
    """What the proxy does with requests, and what it saw."""

    share: float = 0.0
    """Of requests that fail."""
    faults: tuple[str, ...] = _FAULTS
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    seen: Counter[str] = field(default_factory=Counter)
    """Requests by operation, failed ones included."""
    failed: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    """Requests at once, by operation."""
    lock: Lock = field(default_factory=Lock)
    _now: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def passing(self, operation: str) -> Iterator[None]:
        """Around a request."""
        with self.lock:
            self._now[operation] += 1
            self.most[operation] = max(self.most[operation], self._now[operation])
        try:
            yield
        finally:
            with self.lock:
                self._now[operation] -= 1

    def fault(self, operation: str, path: str) -> str | None:
        """How a request fails; None: it does not."""
        with self.lock:
            self.seen[operation] += 1
            if self.draw.random() >= self.share:
                return None
            fault = self.draw.choice(self.faults)
            self.failed[fault] += 1
            return fault


def operation(method: str, url: str) -> str:
    """ "list", "head", "get", "put", "delete", "part", "begin", "complete", "abort", "uploads"."""
    query = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if method == "GET" and "list-type" in query:
        return "list"
    if "uploads" in query:
        return "begin" if method == "POST" else "uploads"
    if "uploadId" in query:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort"}[method]
    return method.lower()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # a reply in one piece
    gate: Gate
    upstream: int

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        asked = operation(self.command, self.path)
        with self.gate.passing(asked):
            self._answer_with(self.gate.fault(asked, self.path), body)

    def _answer_with(self, fault: str | None, body: bytes) -> None:
        if fault == "slow":
            self._answer(503, {}, _SLOW_DOWN)
        elif fault == "internal":
            self._answer(500, {}, _INTERNAL)
        elif fault == "refused":
            self._hang_up()
        else:
            self._forward(body, fault)

    def _forward(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            reply = upstream.getresponse()
            content, headers = reply.read(), dict(reply.getheaders())
        finally:
            upstream.close()
        if fault == "lost":  # done, but the caller never hears of it
            self._hang_up()
        elif fault == "cut" and len(content) > 1:
            self._answer(reply.status, headers, content, sent=len(content) // 2)
            self._hang_up()
        else:
            self._answer(reply.status, headers, content)

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = str(len(content))
        if self.command == "HEAD":
            length = next((v for k, v in headers.items() if k.lower() == "content-length"), "0")
            content = b""
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[:sent])

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that the proxy or its client has cut


@contextmanager
def proxy(upstream: int, gate: Gate) -> Iterator[int]:
    """A server before another one on loopback; yields its port."""
    handler = type("Proxy", (_Proxy,), {"gate": gate, "upstream": upstream})
    server = _Server(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server() -> Iterator[int]:
    """moto's S3 server on loopback; yields its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


def environment(port: int) -> dict[str, str]:
    """What makes plain s3:// URLs lead to a server on loopback, in child processes too."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
    }


@contextmanager
def use_s3(port: int) -> Iterator[None]:
    """Plain s3:// URLs lead to a server on loopback, in this process and in its children."""
    from s3fs import S3FileSystem

    from spa3r.s3 import S3

    before = dict(os.environ)
    os.environ.update(environment(port))
    for kind in (S3, S3FileSystem):
        kind.clear_instance_cache()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for kind in (S3, S3FileSystem):
            kind.clear_instance_cache()


def make_bucket(name: str) -> str:
    """An empty bucket on the server in use; its URL."""
    from spa3r import storage

    url = f"s3://{name}"
    storage.filesystem(url)[0].call_s3("create_bucket", Bucket=name)
    return url


def contents(url: str) -> dict[str, bytes]:
    """All objects below a URL, by the rest of their names."""
    from spa3r import storage

    fs, path = storage.filesystem(url)
    names: list[str] = fs.find(path)
    found = zip(names, storage.read_many([f"s3://{name}" for name in names]), strict=True)
    return {n.removeprefix(path + "/"): data for n, data in found if data is not None}
