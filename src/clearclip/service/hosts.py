"""Under which names the studio may be asked, and by whose pages. No web framework."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from clearclip.errors import UsageError

LOOPBACK = "localhost"


class Hosts:
    """The names of a server, so that no page of another name reaches it through a visitor's browser.

    Loopback names and the address it listens on are always allowed; where that can be reached from elsewhere, also this
    machine's name and every IP address. `allowed` adds `name`, `*.name` or `*`, for proxies.
    """

    def __init__(self, host: str, *, allowed: Collection[str] = ()) -> None:
        self.allowed = tuple(name.lower().rstrip(".") for name in allowed)
        self.names = {host.strip("[]").lower()}
        self.is_private = is_loopback(host)
        if not self.is_private:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def check(self, headers: Mapping[str, str]) -> None:
        """`UsageError` for a request to another name, or from a page of another origin.

        A request without `Origin` passes: it comes from a program, or opens a page.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host_name(host)
        own = name in self.names or is_loopback(name) or (not self.is_private and _is_address(name))
        if not name or not (own or self._named(name)):
            raise UsageError(f"the studio does not answer for {host[:100]!r}: start it with --allow-host NAME")
        foreign = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        if foreign if origin is None else not self._is_own(origin, host):
            raise UsageError(
                f"a page of {(origin or 'another site')[:100]!r} cannot use the studio: start it with --allow-host NAME"
            )

    def _named(self, name: str) -> bool:
        return any(one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in self.allowed)

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            page = urlsplit(origin)
            asked = urlsplit(f"{page.scheme}://{host}")
            default = {"http": 80, "https": 443}[page.scheme]
            same = (page.hostname, page.port or default) == (asked.hostname, asked.port or default)
        except (KeyError, ValueError):
            return False
        return same or self._named(page.hostname or "")


def host_name(host: str) -> str:
    """The name or address in a `Host` header, in small letters; empty where it is damaged."""
    try:
        parts = urlsplit(f"//{host}")
        closed = host.partition("]")[2][:1] in ("", ":")  # older Pythons take `[::1].name` for `::1`
        whole = closed and parts.netloc == host and "@" not in host and (parts.port is None or parts.port > 0)
        return (parts.hostname or "").rstrip(".") if whole else ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a name or an address."""
    try:
        return host == LOOPBACK or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
