"""A studio in a process of its own, for the benchmarks and the tests."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Server:
    """A running studio."""

    url: str
    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)
    reading: threading.Thread | None = None

    @property
    def resident_bytes(self) -> int:
        """Memory that the process occupies; Linux only."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def start(*arguments: object, cache: Path) -> Server:
    """Start `clearclip app` and wait until it says where it is."""
    environment = {**os.environ, "CLEARCLIP_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "clearclip", "app", "--no-browser", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    server = Server("", process)
    server.reading = threading.Thread(target=lambda: server.output.extend(process.stdout), daemon=True)
    server.reading.start()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not server.url:
        found = re.search(r"http://\S+", "".join(server.output))
        server.url = found[0] if found else ""
        assert process.poll() is None, "".join(server.output)
        time.sleep(0.1)
    assert server.url, "".join(server.output)
    return server


def stop(server: Server) -> None:
    """End it."""
    server.process.terminate()
    try:
        server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(20)
    server.reading.join(20)
    server.process.stdout.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
