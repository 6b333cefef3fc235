"""The application behind the page. Every error is one line of JSON: {"error": "..."}.

GET  /             the page
GET  /api/about    what the model is, and the scans to choose from
POST /api/photos   one photo as the body, its name in ?name=  -> {"photo": id, ...}
POST /api/scenes   {"photos": [id, ...]} or {"scan": name}    -> {"scene": id, "views": [...]}
POST /api/answers  {"scene": id, "question": text}            -> lines of JSON, as they come
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib import resources
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from spa3r.chat_page.guard import Guard, content_policy
from spa3r.chat_page.pictures import picture_url, scene_views
from spa3r.chat_page.seen import Answered, ChatModel, Scans, Seen, Written
from spa3r.chat_page.uploads import (
    MAX_BYTES,
    Photo,
    Store,
    TooLargeError,
    open_photo,
    read_body,
    views_of,
)
from spa3r.errors import ConfigError, Spa3RError
from spa3r.storage import redacted

log = logging.getLogger(__name__)

MAX_QUESTION: Final = 4000
"""Characters."""
MAX_WAITING: Final = 8
"""Requests that wait for the model, the one it works on included; more are sent away."""
_SCENES: Final = 4
_UPLOADS: Final = 2
"""Photos that are received and decoded at once; others wait."""
_JSON_BYTES: Final = 1_000_000


class BusyError(Exception):
    """More requests than may wait."""


class Desk:
    """The model, what was shown to it, and the queue before it."""

    def __init__(self, model: ChatModel, scans: Scans) -> None:
        self.model, self.scans = model, scans
        self.photos: Store[Photo] = Store(2 * model.max_views, "photo")
        self.scenes: Store[Seen] = Store(_SCENES, "scene")
        self.uploads = asyncio.Semaphore(_UPLOADS)
        self._turn, self._waiting = asyncio.Lock(), 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The model for oneself, in the order of asking. Raises BusyError."""
        if self._waiting >= MAX_WAITING:
            raise BusyError("too many questions are waiting: try again in a while")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    def about(self) -> dict[str, Any]:
        """What the page shows before anything is chosen."""
        return {
            "facts": list(self.model.facts.items()),
            "photosRefused": self.model.photos_refused,
            "scans": list(self.scans.names),
            "maxBytes": MAX_BYTES,
            "maxViews": self.model.max_views,
            "maxQuestion": MAX_QUESTION,
        }

    async def receive_photo(self, request: Request) -> dict[str, Any]:
        """Keeps one photo."""
        if self.model.photos_refused:
            raise ConfigError(self.model.photos_refused)
        name = request.query_params.get("name", "")
        width, multiple = self.model.working_size
        async with self.uploads:
            data = await read_body(request, MAX_BYTES, "photo")
            photo = await run_in_threadpool(open_photo, data, name, width=width, multiple=multiple)
        shown = {"name": photo.name, "picture": picture_url(photo.rgb_HW3)}
        return {"photo": self.photos.add(photo), **shown}

    async def open_scene(self, request: Request) -> dict[str, Any]:
        """Shows photos or a scan to the model."""
        asked = await _json(request)
        photos, scan = asked.get("photos"), asked.get("scan")
        began = time.monotonic()
        if isinstance(scan, str):
            if scan not in self.scans.names or self.scans.read is None:
                raise ConfigError(f"there is no scan {scan[:80]!r} here: choose one of the list")
            async with self.turn():
                views = await run_in_threadpool(self.scans.read, scan)
                seen = await run_in_threadpool(self.model.look, views)
        elif isinstance(photos, list) and all(isinstance(one, str) for one in photos):
            if len(photos) > self.model.max_views:
                raise ConfigError(
                    f"{len(photos)} photos: at most {self.model.max_views}; take some away"
                )
            views = views_of([self.photos.get(one) for one in photos])
            async with self.turn():
                seen = await run_in_threadpool(self.model.look, views)
        else:
            raise ConfigError('a scene is {"photos": [ids]} or {"scan": name}')
        pictures = await run_in_threadpool(scene_views, seen)
        seconds = time.monotonic() - began
        kept = self.scenes.add(replace(seen, maps={}))  # they are large, and sent by now
        return {"scene": kept, "views": pictures, "seconds": seconds}

    async def asked(self, request: Request) -> tuple[Seen, str]:
        """The scene and the question of a request."""
        asked = await _json(request)
        scene, question = asked.get("scene"), asked.get("question")
        if not isinstance(scene, str) or not isinstance(question, str) or not question.strip():
            raise ConfigError('an answer needs {"scene": id, "question": text}')
        if len(question) > MAX_QUESTION:
            raise ConfigError(
                f"a question of {len(question):,} characters: at most {MAX_QUESTION:,}; shorten it"
            )
        return self.scenes.get(scene), question.strip()

    async def answer(self, seen: Seen, question: str) -> AsyncIterator[str]:
        """Lines of JSON: {"text": part} ..., {"seconds": ..., "truncated": ...}, {"shares": ...};
        or an error.

        It ends, and the model's work with it, when nobody listens any more.
        """
        try:
            async with self.turn():
                yield _line({"state": "answering"})
                parts = self.model.answer(seen, question)
                try:
                    while (part := await run_in_threadpool(next, parts, None)) is not None:
                        yield _line(_told(part))
                finally:
                    with anyio.CancelScope(shield=True):
                        await run_in_threadpool(_close, parts)
        except (Spa3RError, OSError, BusyError) as error:
            yield _line({"error": one_line(error)})


def create_app(model: ChatModel, scans: Scans, host: str) -> Starlette:
    """The application, which answers requests that come to `host`."""
    html = resources.files("spa3r.chat_page").joinpath("page.html").read_text(encoding="utf-8")
    desk = Desk(model, scans)

    async def page(_request: Request) -> Response:
        return HTMLResponse(html)

    async def about(_request: Request) -> Response:
        return JSONResponse(desk.about())

    async def photos(request: Request) -> Response:
        return JSONResponse(await desk.receive_photo(request))

    async def scenes(request: Request) -> Response:
        return JSONResponse(await desk.open_scene(request))

    async def answers(request: Request) -> Response:
        lines = desk.answer(*await desk.asked(request))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/about", about),
            Route("/api/photos", photos, methods=["POST"]),
            Route("/api/scenes", scenes, methods=["POST"]),
            Route("/api/answers", answers, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, host=host, policy=content_policy(html))],
        exception_handlers={kind: _handler(status) for kind, status in _STATUS.items()},
    )


_STATUS: Final = {
    Spa3RError: 400, OSError: 400, TooLargeError: 413, TimeoutError: 408, BusyError: 503,
    ClientDisconnect: 400, HTTPException: 404,
}  # fmt: skip


def _handler(status: int) -> Any:
    async def handle(_request: Request, error: Exception) -> Response:
        known = error.status_code if isinstance(error, HTTPException) else status
        # What is left of a refused body is not read: the connection ends with this answer.
        ends = {"connection": "close"} if status in (408, 413) else None
        return JSONResponse({"error": one_line(error)}, status_code=known, headers=ends)

    return handle


def one_line(error: Exception) -> str:
    """An error as the page shows it."""
    return redacted(" ".join(str(error).split())) or type(error).__name__


async def _json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ConfigError for anything else."""
    body = await read_body(request, _JSON_BYTES, "request")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the request is not JSON") from error
    if not isinstance(asked, dict):
        raise ConfigError("the request is not a JSON object")
    return asked


def _line(what: dict[str, Any]) -> str:
    return json.dumps(what) + "\n"


def _told(part: str | Written | Answered) -> dict[str, Any]:
    if isinstance(part, Written):
        return {"seconds": part.seconds, "truncated": part.truncated}
    return {"text": part} if isinstance(part, str) else {"shares": part.view_shares}


def _close(parts: Iterator[str | Written | Answered]) -> None:
    close = getattr(parts, "close", None)
    if close is not None:
        # ValueError: still at work in its thread, when the server does not wait for it at its end.
        with contextlib.suppress(ValueError):
            close()
