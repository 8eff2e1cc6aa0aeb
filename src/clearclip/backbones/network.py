"""What goes wrong with hubs, said at once and by its cause: the libraries retry, and name the last error."""

from __future__ import annotations

import errno
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import huggingface_hub.constants as hub
from huggingface_hub.errors import GatedRepoError

TIMEOUT_SECONDS = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
LOGIN = "log in with `hf auth login`, or give a token in HF_TOKEN"
ANSWERS = {
    401: f"it wants a login, or there is no such repository: check the name, and {LOGIN}",
    403: f"the login has no right to it: accept its terms on its page, and {LOGIN}",
    404: "there is no such repository or file: check the name",
    429: f"too many requests: wait some minutes, or {LOGIN}",
}

_why_offline: str | None = None
"""As `hub.HF_HUB_OFFLINE`, of the whole process."""


def unreachable(url: str) -> str | None:
    """Why a URL's host gives no answer within some seconds, through the proxies that the environment names.

    `None` if it gives any, a refusal too.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{urlsplit(url).netloc} cannot be reached ({getattr(error, 'reason', error)})"
    return None


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within the block, the Hugging Face libraries read their cache alone where the hub cannot be reached."""
    global _why_offline
    before = hub.HF_HUB_OFFLINE, _why_offline
    _why_offline = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else unreachable(hub.ENDPOINT)
    hub.HF_HUB_OFFLINE = _why_offline is not None
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, _why_offline = before


def cause_of(error: BaseException) -> str:
    """Why a download failed: the most telling of an error and of those that it came from."""
    if _why_offline is not None:
        return f"{_why_offline}, and the file is not in the cache"
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if any(isinstance(one, OSError) and one.errno in FULL for one in chain):
        return "the disk is full: free some space, or name another folder in HF_HOME"
    answers = [response.status_code for one in chain if (response := getattr(one, "response", None)) is not None]
    if answers:
        is_gated = any(isinstance(one, GatedRepoError) for one in chain)
        advice = ANSWERS.get(403 if is_gated else answers[0], "it is out of order, try again later")
        return f"the hub answers {answers[0]}: {advice}"
    if any("Timeout" in type(one).__name__ for one in chain):
        return "the hub does not go on answering: try again"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
