"""The studio as a process of its own, and a real browser; only loopback may be reached."""

import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from clearclip.checkpoints import TINY_FOLDER

pytest.importorskip("gradio", reason="the studio needs the extra 'app'")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from studio_process import free_port, start, stop

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LIMITS = {"max_upload": 2, "max_pixels": 1_000_000, "max_labels": 16}


@pytest.fixture(autouse=True)
def any_words(monkeypatch):
    """Words that the embedded model does not know are told in the studio's own way, so nobody needs the warning."""
    monkeypatch.setattr("clearclip.encode.text._warn_unknown", lambda *_: None)


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch, tmp_path_factory):
    """Gradio's client leaves an empty folder in the temporary folder for each file that it fetches."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def near(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test asked for the network ({address})")
        return connect(self, address)

    def resolve(host, *arguments, **options):
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test asked for the network ({host})")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", near)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    options = [part for name, value in LIMITS.items() for part in (f"--{name.replace('_', '-')}", value)]
    started = start(
        "--port", free_port(), "--models", f"tiny,twin=local-dir:{TINY_FOLDER}", "--device", "cpu", *options,
        cache=tmp_path_factory.mktemp("studio-cache"),
    )  # fmt: skip
    yield started
    stop(started)


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: the browser tests need one (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *CAMERA])
        yield launched
        launched.close()
