"""The studio on a port: what is allowed, where files go, who may come in.

Belongs here: starting and stopping. Does not: the page.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import ClearclipError, UsageError
from clearclip.studio.request import Limits

if TYPE_CHECKING:
    from clearclip.studio.engine import Engine

DEFAULT_MODELS = ("tiny", *(name for name in CHECKPOINTS if name != "tiny"))


@dataclass(frozen=True)
class Options:
    """How the studio is started.

    Attributes:
        models: Allowed names and sources, the first one is shown first.
        host: Address to listen on.
        port: Port; `None` for the first free one from 7860.
        browser: Whether a browser is opened.
        devices: Allowed devices; none for all that there are.
        auth: Pairs of user and password; none lets everybody in who reaches the port.
        limits: What one visitor may ask.
    """

    models: dict[str, str] = field(default_factory=lambda: {name: name for name in DEFAULT_MODELS})
    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = True
    devices: tuple[str, ...] = ()
    auth: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)


def parse_models(values: Iterable[str]) -> dict[str, str]:
    """Read `--models`.

    Args:
        values: Comma lists of what `clearclip.load` takes, or `NAME=SOURCE` to show a source under a name.

    Returns:
        Sources by name, in order; all friendly names where there is no value.

    Raises:
        UsageError: A name stands twice or is empty.
    """
    found: dict[str, str] = {}
    for value in (part.strip() for text in values for part in text.split(",")):
        named = re.fullmatch(r"([\w. -]+)=(.+)", value)
        name, source = (named[1].strip(), named[2].strip()) if named else (value, value)
        if not source:
            raise UsageError("--models has an empty name: separate the models by one comma each")
        if name in found:
            raise UsageError(f"model {name!r} was given twice: give each its own NAME=SOURCE")
        found[name] = source
    return found or {name: name for name in DEFAULT_MODELS}


def parse_auth(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Read `--auth`.

    Args:
        values: `USER:PASSWORD`, or the path of a file with one such pair a line.

    Returns:
        The pairs.

    Raises:
        UsageError: A value is neither.
    """
    pairs = []
    for value in values:
        texts = [value]
        if ":" not in value or Path(value).is_file():
            try:
                texts = [line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError("--auth takes USER:PASSWORD, or a file with one such pair a line") from error
        for text in texts:
            user, colon, password = text.partition(":")
            if not (user and colon and password):
                raise UsageError("--auth takes USER:PASSWORD, or a file with one such pair a line")
            pairs.append((user, password))
    return tuple(pairs)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Args:
        host: Name or address.

    Returns:
        `True` for `localhost` and loopback addresses.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def exposure(options: Options) -> str | None:
    """What to say where others can reach the port.

    Args:
        options: How the studio is started.

    Returns:
        A warning, or `None`.
    """
    if is_loopback(options.host):
        return None
    who = "everybody who can reach" if not options.auth else "everybody with a password who can reach"
    more = "" if options.auth else " Ask for a password with --auth USER:PASSWORD."
    return (
        f"the studio listens on {options.host}: {who} this machine can upload images and use its models.{more} "
        "The connection is not encrypted: put an HTTPS proxy before it, or use an SSH tunnel and the default host."
    )


@contextmanager
def running(options: Options) -> Iterator[tuple[str, Any]]:
    """Start the studio; it stops, and its folder is removed, when the block ends.

    Args:
        options: How.

    Yields:
        The page's address, and Gradio's blocks.

    Raises:
        ClearclipError: The extra is not installed, or the port cannot be used.
    """
    if importlib.util.find_spec("gradio") is None or importlib.util.find_spec("cachetools") is None:
        raise UsageError('the studio needs Gradio: python -m pip install "clearclip[app]"')
    with tempfile.TemporaryDirectory(prefix="clearclip-studio-", ignore_cleanup_errors=True) as work, _quiet(work):
        from clearclip.studio import page
        from clearclip.studio.engine import Engine, available_devices
        from clearclip.studio.files import Files
        from clearclip.studio.scenes import write_scenes
        from clearclip.studio.settings import Studio

        folder = Path(work)
        for name in ("scenes", "results", "uploads"):
            (folder / name).mkdir()
        engine = Engine(options.models, devices=options.devices or available_devices(), limits=options.limits)
        studio = Studio(engine, write_scenes(folder / "scenes"), Files(folder / "results"))
        blocks = page.build(studio)
        blocks.queue(max_size=options.limits.queue, default_concurrency_limit=options.limits.concurrency)
        try:
            _, url, _ = blocks.launch(
                server_name=options.host,
                server_port=options.port,
                inbrowser=options.browser,
                auth=list(options.auth) or None,
                max_file_size=options.limits.example_bytes,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                enable_monitoring=False,
                run_history=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                footer_links=["api", "settings"],
                theme=page.THEME,
                css=page.STYLE,
                state_session_capacity=1000,
            )
        except OSError as error:
            raise ClearclipError(
                f"port {options.port or 7860} of {options.host} cannot be used ({error}): choose another with --port"
            ) from error
        threading.Thread(target=_warm, args=(engine,), daemon=True).start()
        try:
            yield url, blocks
        finally:
            blocks.close(verbose=False)


def _warm(engine: Engine) -> None:
    """Load the model that is shown first while the browser still opens; an error is told to who asks for it."""
    with suppress(ClearclipError):
        engine.model(next(iter(engine.models)), engine.devices[0])


@contextmanager
def _quiet(work: str) -> Iterator[None]:
    """Gradio's own files into our folder, and nothing sent anywhere."""
    wanted = {
        "GRADIO_TEMP_DIR": str(Path(work) / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def serve(options: Options) -> None:
    """Start the studio and wait until it is interrupted.

    Args:
        options: How.

    Raises:
        ClearclipError: As `running`.
    """
    warning = exposure(options)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    with running(options) as (url, blocks):
        print(f"The studio is at {url} (Ctrl-C ends it).", flush=True)
        try:
            blocks.block_thread()
        except (KeyboardInterrupt, OSError):
            return
