"""The page as a server on this machine."""

import threading
from types import TracebackType
from typing import Final

import uvicorn

from spa3r.chat_page.app import create_app
from spa3r.chat_page.seen import ChatModel, Scans
from spa3r.loopback import HOST, listen, page_url

PORT: Final = 8090
_PATIENCE: Final = 3
"""Seconds that answers in progress get when the server ends."""


class ChatPage:
    """Serves the page until it is closed or the process ends.

    Args:
        model: what is asked. One question at a time.
        scans: that can be chosen in the page.
        host: address to listen on. Whoever reaches it may ask: there is no password.

    Raises:
        ConfigError: an impossible port.
        ServiceError: the address cannot be listened on; a free port is named.
    """

    def __init__(
        self, model: ChatModel, *, scans: Scans | None = None, host: str = HOST, port: int = PORT
    ) -> None:
        self.url = page_url(host, port)
        listener = listen(host, port)
        app = create_app(model, scans or Scans(), host)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_PATIENCE,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="chat page", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "ChatPage":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Until the server ends or Ctrl-C is pressed, which ends it."""
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Ends the server and frees its port; may be called twice."""
        self._server.should_exit = True
        self._thread.join()
