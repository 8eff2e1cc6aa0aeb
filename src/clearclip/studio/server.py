"""The studio on a port: what is allowed, where files go, who may come in."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import secrets
import signal
import socket
import sys
import threading
import warnings
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.optional import installation
from clearclip.files.reading import read_text
from clearclip.files.temporary import environment
from clearclip.service.files import Files, work_folder
from clearclip.service.hosts import Hosts, is_loopback
from clearclip.service.request import Limits

if TYPE_CHECKING:
    from clearclip.service.models import Models

PORTS = range(7860, 7960)
SESSIONS = 200
AUTH_BYTES = 1_000_000
DEFAULT_MODELS = ("tiny", *(name for name in CHECKPOINTS if name != "tiny"))


@dataclass(frozen=True)
class Options:
    """How the studio is started: `models` are sources by name, the first one is shown first.

    `port` of `None`: the first free one from 7860; no `devices`: all that there are; no `auth`: everybody who reaches
    the port comes in; `allow_hosts` as in `service.hosts.Hosts`. `root_path` is where a proxy shows the studio,
    `/clearclip` or a whole address; `value_range` as for `load`.
    """

    models: dict[str, str] = field(default_factory=lambda: {name: name for name in DEFAULT_MODELS})
    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = True
    devices: tuple[str, ...] = ()
    auth: tuple[tuple[str, str], ...] = ()
    allow_hosts: tuple[str, ...] = ()
    root_path: str = ""
    value_range: tuple[float, float] | None = None
    limits: Limits = field(default_factory=Limits)


def parse_models(values: Iterable[str]) -> dict[str, str]:
    """Read `--models`, comma lists of sources or NAME=SOURCE, as sources by name; without any, all friendly names."""
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
    """Read `--auth`, USER:PASSWORD or files with one such pair a line."""
    pairs = []
    for value in values:
        texts = [value]
        if ":" not in value or Path(value).is_file():
            try:
                lines = read_text(value, limit=AUTH_BYTES).splitlines()
                texts = [line.strip() for line in lines if line.strip()]
            except OSError as error:
                raise UsageError("--auth takes USER:PASSWORD, or a file with one such pair a line") from error
        for text in texts:
            user, colon, password = text.partition(":")
            if not (user and colon and password):
                raise UsageError("--auth takes USER:PASSWORD, or a file with one such pair a line")
            pairs.append((user, password))
    return tuple(pairs)


def exposure(options: Options) -> str | None:
    """A warning where others can reach the port, or `None`."""
    if _is_private(options):
        return None
    who = "everybody who can reach" if not options.auth else "everybody with a password who can reach"
    more = "" if options.auth else " Ask for a password with --auth USER:PASSWORD."
    return (
        f"the studio listens on {options.host}: {who} this machine can upload images and use its models.{more} "
        "The connection is not encrypted: put an HTTPS proxy before it, or use an SSH tunnel and the default host."
    )


def _is_private(options: Options) -> bool:
    """Whether only this machine can reach the studio; a further name or a place means a proxy."""
    return is_loopback(options.host) and not options.allow_hosts and not options.root_path


def choose_port(host: str, port: int | None) -> int:
    """The port, or the first free one of `PORTS`; `ClearclipError` if the host or the port cannot be used.

    Gradio tries a hundred ports of an address that is not this machine's, and waits five seconds for each.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: no such address ({error}): choose one of this machine's") from error
    reason: OSError | None = None
    for candidate in PORTS if port is None else (port,):
        try:
            for kind, place in ((family, address[0]), (socket.AF_INET, "127.0.0.1")):  # where Gradio looks as well
                with socket.socket(kind, socket.SOCK_STREAM) as probe:
                    if os.name == "posix":
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((place, candidate))
            return candidate
        except OSError as error:
            reason = error
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise UsageError(f"--host {host} is no address of this machine ({error.strerror})") from error
    ports = f"port {port}" if port else f"no port from {PORTS[0]} to {PORTS[-1]}"
    raise ClearclipError(f"{ports} of {host} can be used ({reason}): choose another with --port")


@contextmanager
def running(options: Options) -> Iterator[tuple[str, Any]]:
    """Start the studio; yields the page's address and Gradio's blocks, and stops and cleans up at the end.

    `ClearclipError` if the extra is not installed, or the port cannot be used.
    """
    for library in ("gradio", "cachetools"):
        if importlib.util.find_spec(library) is None:  # not imported: that makes folders
            raise UsageError(f"the studio needs {library}: {installation('app')} (the extra 'app')")
    port = choose_port(options.host, options.port)
    with work_folder() as work, _quiet(work):
        from gradio import processing_utils

        from clearclip.service.gate import guarded
        from clearclip.service.models import Models, available_devices
        from clearclip.studio import page
        from clearclip.studio.scenes import write_scenes
        from clearclip.studio.settings import Studio

        # A file's folder is a hash of this and its bytes: who knows an image cannot tell where another's upload lies.
        processing_utils.hash_seed = secrets.token_bytes(32)
        files = Files(work, limit=options.limits.stored_bytes)
        models = Models(
            options.models,
            devices=options.devices or available_devices(),
            limits=options.limits,
            keeps_words=_is_private(options),
            value_range=options.value_range,
        )
        blocks = page.build(Studio(models, write_scenes(files.scenes), files))
        blocks.queue(max_size=options.limits.queue, default_concurrency_limit=options.limits.concurrency)
        hosts = Hosts(options.host, allowed=(*options.allow_hosts, *_root_host(options.root_path)))
        try:
            _, url, _ = blocks.launch(
                server_name=options.host if ":" not in options.host else f"[{options.host.strip('[]')}]",
                server_port=port,
                root_path=options.root_path,
                inbrowser=False,
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
                state_session_capacity=SESSIONS,
                app_kwargs={"lifespan": guarded(hosts=hosts, files=files, limits=options.limits)},
            )
        except OSError as error:
            raise ClearclipError(
                f"port {port} of {options.host} cannot be used ({error}): choose another with --port"
            ) from error
        files.keep()
        if options.browser:
            webbrowser.open(url)
        threading.Thread(target=_warm, args=(models,), daemon=True).start()
        try:
            yield url, blocks
        finally:
            blocks.close(verbose=False)


def parse_root_path(text: str) -> str:
    """Read `--root-path`, `/NAME` or `https://HOST/NAME`, without a slash at its end; empty stays."""
    text = text.rstrip("/")
    if text and not re.fullmatch(r"(https?://[\w.:\[\]-]+)?(/[\w.~-]+)*", text, re.ASCII):
        raise UsageError(f"--root-path {text[:100]}: write /NAME, or a whole address as https://HOST/NAME")
    return text


def _root_host(root_path: str) -> tuple[str, ...]:
    """The host in the place where a proxy shows the studio, if that is a whole address."""
    name = urlsplit(root_path).hostname
    return (name,) if name else ()


def _warm(models: Models) -> None:
    """Load the first model while the browser opens; an error is left to the request that asks for it."""
    with suppress(ClearclipError):
        models.model(next(iter(models.sources)), models.devices[0])


def _quiet(work: Path) -> AbstractContextManager[None]:
    """Put Gradio's own files into our folder, and send nothing anywhere."""
    return environment(
        {"GRADIO_TEMP_DIR": str(work / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    )


def serve(options: Options) -> None:
    """Start the studio and wait until it is interrupted or told to end; `ClearclipError` as `running`."""
    warnings.filterwarnings("ignore", "the model has never seen")  # visitors are told, the log is not filled
    warning = exposure(options)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    with _ended_by_signals(), running(options) as (url, blocks):
        print(f"The studio is at {url} (Ctrl-C ends it).", flush=True)
        try:
            blocks.block_thread()
        except (KeyboardInterrupt, OSError):
            return


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Clean up after SIGTERM or a closed terminal as after Ctrl-C."""
    found = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in found if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once: cleaning up is not interrupted
    raise SystemExit(128 + number)
