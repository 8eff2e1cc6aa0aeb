"""How Ray is started for one run on this machine: what it may write and where, whom it may ask.

`tests/hostile/test_hostile_asked.py` watches it. A user's own cluster is not configured here.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clearclip.files.temporary import environment, temporary_folder

FOLDER_PREFIX = "clearclip-ray-"
OBJECT_STORE_BYTES = 512 << 20
LONGEST_PARENT = 12
"""Sockets have names of at most 103 letters on macOS (107 on Linux), of which Ray takes 68 and our folder 23."""
LOOPBACK = "127.0.0.1"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ parts write to standard error
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # and what it has to say of dead workers to standard output
}


@contextmanager
def private_place(cores: int) -> Iterator[dict[str, Any]]:
    """Arguments of `ray.init` for a cluster of this process alone, whose files lie in a folder removed with the block.

    It listens on loopback, behind a token that nobody else can read, and asks no other machine anything.
    """
    parent = Path(tempfile.gettempdir())
    if sys.platform != "win32" and len(os.fsencode(parent)) > LONGEST_PARENT:
        parent = Path("/tmp")
    with temporary_folder(FOLDER_PREFIX, parent=parent) as folder, socket.socket() as held:
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        held.bind((LOOPBACK, 0))
        changes = {
            "RAY_AUTH_TOKEN_PATH": str(token),  # or it writes ~/.ray/auth_token, for everybody to read
            "RAY_TMPDIR": str(folder),
            "TMPDIR": str(folder),  # what killed workers leave goes as well
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: everything listens on loopback alone
        }
        with _environment(changes):
            yield {
                "address": "local",
                "num_cpus": cores,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": LOOPBACK,  # its own finding of an address asks the network
                # Without a dashboard it still starts one's process, which asks clouds' metadata addresses whether this
                # machine is theirs: on a port that is taken it does without.
                "include_dashboard": False,
                "dashboard_port": held.getsockname()[1],
            }


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables for Ray's processes, which inherit them, and for Ray itself, which remembers them otherwise."""
    from ray._private import ray_constants

    everywhere = ray_constants.ENABLE_RAY_CLUSTER  # RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, read when Ray was imported
    try:
        with environment(changes, kept=["RAY_AUTH_MODE"]):  # Ray sets that one itself
            ray_constants.ENABLE_RAY_CLUSTER = False
            _forget()
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = everywhere
        _forget()


def _forget() -> None:
    """Ray keeps the token and the variables that it read first, and would take them to the next cluster."""
    from ray import _raylet

    untyped: Any = _raylet
    untyped.Config.initialize("")
    untyped.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def no_greetings() -> Iterator[None]:
    """Discard what Ray's C++ parts write to standard error while they start, whatever their log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
