"""Headless Chromium, driven through its debugging protocol."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from urllib.parse import urlsplit

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip


class Page:
    """A tab.

    Args:
        folder: that it keeps its profile in.
        size: of its window in pixels.
    """

    def __init__(self, folder: str, size: tuple[int, int] = (640, 480)) -> None:
        self.events: list[dict] = []
        self.process = subprocess.Popen(
            [str(CHROMIUM), "--headless=new", "--no-sandbox", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
             f"--window-size={size[0]},{size[1]}",
             f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if line.startswith("DevTools listening"))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        with urllib.request.urlopen(f"http://{urlsplit(line.split()[-1]).netloc}/json") as answer:
            tabs = json.load(answer)
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self.socket = connect(url, max_size=None)
        self.numbers = itertools.count(1)

    def call(self, method: str, **params: object) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, expression: str) -> object:
        """Value of a JavaScript expression or of what its promise resolves to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                           returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def asked(self) -> list[str]:
        """Every address that the page has asked for."""
        return [
            event["params"].get("request", event["params"])["url"]
            for event in self.events
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        ]

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.socket.close()
