"""Downloads from a hub that refuses, fails or hangs, each said by its own cause; the hub is made, on loopback."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clearclip.backbones import network

LOAD = """
import sys, clearclip
from clearclip.cli.options import prepare
prepare()
for name in sys.argv[1:]:
    try:
        clearclip.load_backbone(name)
    except clearclip.ClearclipError as error:
        print(name, "→", error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers with the status that a repository is named after."""

    def _answer(self):
        status = next(
            (part.removeprefix("status") for part in self.path.split("/") if part.startswith("status")), "200"
        )
        self.send_response(int(status[:3]))
        if status.endswith("gated"):
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815  (the library's names)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_each_answer_of_a_hub_is_told_with_what_to_do(hub, tmp_path):
    told = {
        "401": "it wants a login, or there is no such repository",
        "403": "the login has no right to it",
        "403gated": "accept its terms",
        "404": "there is no such repository or file",
        "429": "too many requests",
        "500": "it is out of order",
        "503": "it is out of order",
    }
    names = [f"{prefix}made/status{status}" for status in told for prefix in ("", "hf-hub:")]
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *names], env=environment, capture_output=True, text=True, timeout=250, check=True
    )
    lines = dict(line.split(" → ") for line in ran.stdout.splitlines())
    assert list(lines) == names
    for status, sentence in told.items():
        for prefix in ("", "hf-hub:"):
            line = lines[f"{prefix}made/status{status}"]
            assert f"the hub answers {status[:3]}: " in line, line
            assert sentence in line
    assert all(line.startswith("Looking for made/status") for line in ran.stderr.splitlines()), ran.stderr


def test_a_full_disk_is_told_whatever_came_after():
    last = RuntimeError("404 for the next file")
    last.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert network.cause_of(last).startswith("the disk is full")


def test_a_hub_that_hangs_is_left_soon(monkeypatch):
    monkeypatch.undo()  # a connection to this machine is allowed
    monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in network.unreachable(url)
    assert "cannot be reached" in network.unreachable(url)


def test_any_answer_is_one(hub, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "*")
    assert network.unreachable(hub) is None
    assert network.unreachable(f"{hub}/status503") is None
