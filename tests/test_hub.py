"""Downloads from a hub that refuses, fails or hangs, each said by its own cause; the hub is made, on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clearclip.backbones import network
from clearclip.checkpoints import TINY_FOLDER

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


class Shop(BaseHTTPRequestHandler):
    """Has the embedded model as `made/tiny`; the first time that its weights are asked for, only half of them come."""

    def do_HEAD(self):
        self._answer(send=False)

    def do_GET(self):
        self._answer(send=True)

    def _answer(self, *, send):
        commit, asked, data, start = "0" * 40, self.server.asked, b"", 0
        files = [(file.name, file.stat().st_size) for file in TINY_FOLDER.iterdir()]
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in files]
            data = json.dumps(tree).encode()
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name} for name, _ in files]
            data = json.dumps({"id": "made/tiny", "sha": commit, "siblings": siblings}).encode()
        elif "/resolve/" in self.path:
            data = (TINY_FOLDER / self.path.rpartition("/")[2]).read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        is_weights = send and self.path.endswith(".safetensors")
        if is_weights:
            asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if send and is_weights and len(asked) == 1:
            self.wfile.write(data[: len(data) // 2])
            self.server.half_sent.set()
            self.server.go_on.wait(60)
        elif send:
            self.wfile.write(data[start:])

    def log_message(self, *_):
        pass


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.half_sent, server.go_on = [], threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def hub():
    server = serve(Hub)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def shop(tmp_path):
    server = serve(Shop)
    url = f"http://127.0.0.1:{server.server_port}"
    server.environment = os.environ | {
        "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
        "CLEARCLIP_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


SMALL_STEPS = (
    "import huggingface_hub.constants as hub; hub.DOWNLOAD_CHUNK_SIZE = 1 << 16; from clearclip.cli import main; main()"
)
"""The library keeps what has come in steps of 10 MB, more than the embedded model has."""
DOWNLOAD = [sys.executable, "-c", SMALL_STEPS, "models", "download", "hf-hub:made/tiny"]


def test_a_download_whose_connection_breaks_goes_on_where_it_was(shop):
    shop.go_on.set()
    ran = subprocess.run(DOWNLOAD, env=shop.environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "hf-hub:made/tiny: 4 MB in" in ran.stdout
    assert shop.asked[0] == 0
    assert 0 < shop.asked[1] < (TINY_FOLDER / "open_clip_model.safetensors").stat().st_size


def test_after_ctrl_c_whole_files_are_kept_and_the_one_under_way_begins_again(shop, tmp_path):
    """huggingface_hub names half a file at random, so that no other process takes it, and removes it."""
    with subprocess.Popen(DOWNLOAD, env=shop.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert shop.half_sent.wait(120)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert shop.asked == [0], "it ended at once"
    shop.go_on.set()
    ran = subprocess.run(DOWNLOAD, env=shop.environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert shop.asked == [0, 0]
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


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
