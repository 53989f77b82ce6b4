"""The review's server: one page and its data, for this machine only, behind a token in the address."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import APIRouter, Body, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import StrictInt, StrictStr

from extract.ground import files
from extract.ground.errors import InputError
from extract.images.header import BadImage
from extract.workspace import Workspace, shown
from heads.review.desk import ANSWERED, Conflict, Desk
from heads.review.queues import QUEUES

HERE = Path(__file__).parent
HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # against another site's name that resolves to this machine
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # no picture on the browser's disk
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
MOST = 1000  # rows of a queue in one reply
Whole = Annotated[StrictInt, Body(embed=True)]
Text = Annotated[StrictStr, Body(embed=True)]


class Json(JSONResponse):
    """JSON of dataclasses, in ASCII, as a name may contain bytes that are not UTF-8."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, default=asdict, allow_nan=False, separators=(",", ":")).encode("ascii")


def build(desk: Desk, token: str) -> FastAPI:
    """Return the application. Without the token, or with another host's name, every request is answered 404."""

    def known(request: Request) -> bool:
        host = request.headers.get("host", "").rsplit(":", 1)[0]
        given = request.scope["path"].removeprefix("/").partition("/")[0]
        return host in HOSTS and secrets.compare_digest(given.encode(), token.encode())

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    pages = APIRouter(prefix=f"/{token}", default_response_class=Json)
    _add_page(pages)
    _add_questions(pages, desk)
    _add_answers(pages, desk)
    app.include_router(pages)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, _error: Exception) -> Response:
        return Json({"detail": "Malformed request"}, 422)  # FastAPI's own reply may hold values that JSON cannot

    @app.exception_handler(OSError)
    async def unwritable(_request: Request, error: Exception) -> Response:
        return Json({"detail": str(error)}, 507)

    @app.middleware("http")
    async def guarded(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        # checked before path and body
        response = await proceed(request) if known(request) else Json({"detail": "Not Found"}, 404)
        response.headers.update(HEADERS)
        return response

    return app


def _add_page(pages: APIRouter) -> None:
    def file(name: str) -> Callable[[], Response]:
        return lambda: Response((HERE / name).read_bytes(), media_type=TYPES[name.rsplit(".")[-1]])

    for path in ("", "page.js", "page.css", "icon.svg"):
        pages.add_api_route(f"/{path}", file(path or "page.html"), response_class=Response)


def _add_questions(pages: APIRouter, desk: Desk) -> None:
    @pages.get("/api/state")
    def state() -> Response:
        return Json(desk.state())

    @pages.get("/api/queue/{name}")
    def queue(name: str, start: Annotated[int, Query(ge=0)], count: Annotated[int, Query(ge=1, le=MOST)]) -> Response:
        if name not in (*QUEUES, ANSWERED):
            raise HTTPException(404)
        return Json(desk.queue(name, start, count))

    @pages.get("/api/card/{row}")
    def card(row: int) -> Response:
        return Json(desk.card(_existing(desk, row)))

    @pages.get("/thumb/{row}")
    def thumb(row: int) -> Response:
        return _jpeg(desk.pictures.small, _existing(desk, row))

    @pages.get("/image/{row}")
    def image(row: int) -> Response:
        return _jpeg(desk.pictures.large, _existing(desk, row))


def _jpeg(make: Callable[[int], bytes], row: int) -> Response:
    try:
        return Response(make(row), media_type="image/jpeg")
    except BadImage as error:
        raise HTTPException(404, str(error)) from error


def _add_answers(pages: APIRouter, desk: Desk) -> None:
    @pages.post("/api/answer")
    def answer(row: Whole, answer: Text, old: Text, new: Text, number: Whole) -> Response:
        try:
            return Json({"number": desk.answer(_existing(desk, row), answer, old=old, new=new, number=number)})
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except Conflict as error:
            return Json({"detail": str(error), "row": desk.row(row)}, 409)

    @pages.post("/api/undo")
    def undo(number: Whole) -> Response:
        try:
            return Json({"row": desk.row(desk.undo(number))})
        except Conflict as error:
            raise HTTPException(409, str(error)) from error


def _existing(desk: Desk, row: int) -> int:
    if not 0 <= row < len(desk.rows.ids):
        raise HTTPException(404)
    return row


def run(place: Workspace, who: str, port: int) -> None:
    """Print the address, serve until interrupted, then print a summary. port: 0 for any free one.

    Errors: InputError if the port is taken; BusyError if another process reviews the same OUT; as `Desk`.
    """
    token, path = secrets.token_urlsafe(24), place.answers
    with socket.socket() as listening, files.lock(files.lock_of(path), str(path)):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # before the address is printed
        except (OSError, OverflowError) as error:  # the latter above 65535
            raise InputError(
                "port-in-use", f"Port {port} of {HOST} cannot be used: {error}", then="Omit --port"
            ) from error
        desk = Desk(place, who)
        for note in desk.notes:
            print(f"labels    {note}")
        address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
        print(f"review    open {address} in a browser on this machine; Ctrl-C ends", flush=True)
        config = uvicorn.Config(build(desk, token), log_level="error", access_log=False, server_header=False)
        desk.start()
        try:
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            desk.close()
        print(f"review    {desk.state().errors.changed:,} labels changed in all; {shown(path)}; make head reads it")
