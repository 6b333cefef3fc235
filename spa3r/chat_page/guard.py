"""Around the application: requests of other pages are refused, and ours may load nothing else."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spa3r.loopback import own_name, own_page

_REFUSED = "this page answers only to itself: open it under its own address"


class Guard:
    """ASGI middleware.

    Args:
        host: that the server listens on.
        policy: the header Content-Security-Policy of every answer.
    """

    def __init__(self, app: ASGIApp, *, host: str, policy: str) -> None:
        self._app, self._host = app, host
        self._headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403 to a request of another page or under another name, else passes it on."""
        assert scope["type"] == "http", f"no {scope['type']} here"
        headers = Headers(scope=scope)
        asked = headers.get("host", "")

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        if own_name(asked, self._host) and own_page(headers.get("origin"), asked, self._host):
            await self._app(scope, receive, sealed)
        else:
            body = json.dumps({"error": _REFUSED}).encode()
            start = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await sealed({"type": "http.response.start", "status": 403, "headers": start})
            await sealed({"type": "http.response.body", "body": body})


def content_policy(html: str) -> str:
    """A policy that lets the page run its own inline script and style and ask its own server."""
    scripts, styles = (
        " ".join(_hashes(re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)))
        for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src data: blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        digest = hashlib.sha256(text.encode()).digest()
        yield f"'sha256-{base64.b64encode(digest).decode()}'"
