"""What may reach Gradio: an ASGI application around its own that checks hosts, routes, bodies and logins."""

from __future__ import annotations

import ipaddress
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from cachetools import TTLCache
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from clearclip.errors import UsageError
from clearclip.files.reading import RefusedError, regular_inside
from clearclip.service.files import Files
from clearclip.service.hosts import Hosts
from clearclip.service.request import Limits, children, read_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
FILE = f"{API}/file="
PAGES = {"/", "/config", "/config/", "/favicon.ico", "/manifest.json", "/robots.txt", "/theme.css", "/login", "/logout"}
ROUTES = PAGES | {
    f"{API}/{name}"
    for name in (
        *("upload", "upload_progress", "queue/join", "queue/data", "queue/status", "cancel", "reset"),
        *("info", "info/", "app_id", "user", "login_check", "startup-events", "theme.css"),
    )
}
FOLDERS = ("/assets/", "/static/", "/svelte/", FILE, *(f"{API}/{name}/" for name in ("heartbeat", "call", "run")))
"""What the page and Gradio's clients ask for. Gradio has more: recordings through ffmpeg, a proxy, saved sessions."""

GUESS_SECONDS = 300
GUESSES = 5
GUESSES_OF_ALL = 100
LOGIN_BYTES = 10_000
FORM_BYTES = 10_000
"""Of a form around the file in it."""


class Refusal(BaseException):
    """A request that goes no further. No `Exception`: those Starlette answers itself, as its own failures."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Guesses:
    """Wrong passwords, counted for each address and for all together; nobody can guess on after too many."""

    def __init__(self) -> None:
        self._of: TTLCache[str, int] = TTLCache(4096, ttl=GUESS_SECONDS, timer=time.monotonic)
        self._times: deque[float] = deque(maxlen=GUESSES_OF_ALL)

    def begin(self, address: str) -> None:
        """Count an attempt as wrong before its answer is known; `Refusal` after too many."""
        full = len(self._times) == GUESSES_OF_ALL and time.monotonic() - self._times[0] < GUESS_SECONDS
        if full or self._of.get(address, 0) >= GUESSES:
            raise Refusal(429, f"too many wrong passwords: wait {GUESS_SECONDS // 60} minutes")
        self._of[address] = self._of.get(address, 0) + 1
        self._times.append(time.monotonic())

    def succeed(self, address: str) -> None:
        """The attempt was right."""
        self._of.pop(address, None)
        self._times.pop()


def address_of(scope: Scope) -> str:
    """Who asks: an IPv4 address, or the network of an IPv6 address, of which one visitor has many."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)[:100]
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


class Gate:
    """The ASGI application that Gradio's is wrapped in, with all of its middleware."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, files: Files, limits: Limits) -> None:
        self.app, self.hosts, self.files, self.limits = app, hosts, files, limits
        self.guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with one sentence why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check_host(scope)
            await self._pass(scope, receive, noted)
        except Refusal as refusal:
            if not started:
                await JSONResponse({"detail": str(refusal)}, refusal.status)(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        try:
            self.hosts.check(Headers(scope=scope))
        except UsageError as error:
            raise Refusal(403, str(error)) from error

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in ROUTES and not path.startswith(FOLDERS):
            raise Refusal(404, "there is no such page")
        if path.startswith(FILE):
            self._check_file(path.removeprefix(FILE))
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif path == f"{API}/upload":
            await self.app(scope, self._counted(scope, receive), send)
        elif path == "/login":
            await self._log_in(scope, receive, send)
        else:
            body = await _read(scope, receive, limit=self.limits.request_bytes)
            try:
                _check_addresses(read_json(body) if body else None)
            except UsageError as error:
                raise Refusal(400, str(error)) from error
            await self.app(scope, _replayed(body, receive), send)

    def _check_file(self, path: str) -> None:
        try:
            regular_inside(path, (self.files.uploads,))
        except RefusedError as error:
            raise Refusal(404, "there is no such file") from error

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """The body of an upload, counted while it comes: as one file, and for the room that all files share."""
        most, size = self.limits.example_bytes + FORM_BYTES, 0
        _check_length(scope, most)

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                count = len(message.get("body", b""))
                size += count
                if size > most:
                    raise _too_large(most)
                try:
                    await anyio.to_thread.run_sync(self.files.take, count)
                except UsageError as error:
                    raise Refusal(507, str(error)) from error
            return message

        return counted

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(scope, receive, limit=LOGIN_BYTES)
        address = address_of(scope)
        self.guesses.begin(address)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.guesses.succeed(address)
            await send(message)

        await self.app(scope, _replayed(body, receive), noted)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the request is larger than the limit of {limit:,} bytes: make it smaller")


def _check_length(scope: Scope, limit: int) -> None:
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


async def _read(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    _check_length(scope, limit)
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _check_addresses(value: Any) -> None:
    """Refuse a file that is named by an address: Gradio would fetch it."""
    level = [value]
    while level:
        if any(isinstance(item, dict) and "://" in str(item.get("path")) for item in level):
            raise UsageError("a file is named by an address: upload it instead, nothing is fetched from elsewhere")
        level = [part for item in level for part in children(item)]


def guarded(*, hosts: Hosts, files: Files, limits: Limits) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that puts a `Gate` before an application, and so before Gradio's answers to other origins."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        inner = app.middleware_stack
        assert inner is not None  # it was built to start this
        app.middleware_stack = Gate(inner, hosts=hosts, files=files, limits=limits)
        yield

    return lifespan
