"""The studio below a path of a proxy's: page, files and API are found there, and strangers are still refused."""

import re
import threading
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest
from PIL import Image

from clearclip.errors import UsageError
from clearclip.studio.server import Options, exposure, parse_root_path

PREFIX = "/clearclip"


@contextmanager
def proxy(upstream, port):
    """Passes `/clearclip/…` on without the prefix, as nginx does with `proxy_pass http://127.0.0.1:7860/;`."""
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    client = httpx.AsyncClient(base_url=upstream, timeout=60)

    @asynccontextmanager
    async def lifespan(app):
        async with client:
            yield

    async def forward(request):
        path = request.url.path
        if not path.startswith(f"{PREFIX}/"):
            return PlainTextResponse("outside", status_code=404)
        headers = [pair for pair in request.headers.raw if pair[0] != b"content-length"]
        asked = client.build_request(
            request.method,
            httpx.URL(path=path[len(PREFIX) :], query=request.url.query.encode()),
            headers=headers,
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
        end = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=end)

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "HEAD"])], lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        yield f"http://127.0.0.1:{port}{PREFIX}/"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def studio(tmp_path, *options):
    from studio_process import free_port, start, stop

    server = start("--port", free_port(), "--models", "tiny", "--device", "cpu", *options, cache=tmp_path / "cache")
    try:
        with proxy(server.url, free_port()) as address:
            yield address
    finally:
        stop(server)


def test_page_files_and_api_below_a_path(tmp_path):
    import httpx
    from gradio_client import Client, handle_file

    with studio(tmp_path, "--root-path", f"{PREFIX}/") as address:
        root = address.rstrip("/")
        page = httpx.get(address).text
        assert httpx.get(f"{address}config").json()["root"] == root
        assert re.search(r'"root":"([^"]*)"', page)[1] == root
        linked = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css))"', page)
        assert linked
        assert all(httpx.get(httpx.URL(address).join(link)).status_code == 200 for link in linked)
        Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(tmp_path / "a.png")
        client = Client(address, verbose=False, download_files=str(tmp_path / "got"))
        answer, label_map = client.predict(
            image=handle_file(tmp_path / "a.png"), labels=["sky", "tree"], api_name="/segment"
        )
        assert [label["name"] for label in answer["labels"]] == ["sky", "tree"]
        client.close()
        assert np.asarray(Image.open(label_map)).shape == (40, 56)
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            assert httpx.get(f"{address}config", headers=headers).status_code == 403


def test_a_whole_address_lets_its_own_name_in_and_no_other(tmp_path):
    import httpx

    with studio(tmp_path, "--root-path", f"https://studio.example.org{PREFIX}") as address:
        name = {"host": "studio.example.org"}
        config = httpx.get(f"{address}config", headers=name | {"origin": "https://studio.example.org"})
        assert config.json()["root"] == f"https://studio.example.org{PREFIX}"
        assert httpx.get(f"{address}config", headers=name | {"origin": "https://evil.example"}).status_code == 403
        assert httpx.get(f"{address}config", headers={"host": "other.example.org"}).status_code == 403


def test_places_that_can_be_said():
    assert [parse_root_path(text) for text in ("", "/", "/a/b/", "https://[::1]:8443/x")] == [
        "", "", "/a/b", "https://[::1]:8443/x"
    ]  # fmt: skip
    for text in ("clearclip", "javascript:x", "/a b", '/"><script>', "https://", "//evil.example", "/a?b", "ftp://a/b"):
        with pytest.raises(UsageError, match="--root-path"):
            parse_root_path(text)
    assert "everybody who can reach" in exposure(Options(root_path=PREFIX))
