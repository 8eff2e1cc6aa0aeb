"""Hubs that cannot be reached: said at once, where the hub libraries would retry every file for half a minute."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import huggingface_hub.constants as hub

TIMEOUT_SECONDS = 5.0


def reachable(url: str) -> bool:
    """Whether a URL's host answers at all. Behind a proxy it is taken to."""
    parts = urlsplit(url)
    scheme = parts.scheme or "https"
    if any(name.lower() in (f"{scheme}_proxy", "all_proxy") and value for name, value in os.environ.items()):
        return True
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=TIMEOUT_SECONDS
        ).close()
    except OSError:
        return False
    return True


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within the block, the Hugging Face libraries read their cache alone where the hub cannot be reached."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not reachable(hub.ENDPOINT)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
