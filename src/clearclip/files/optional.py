"""Libraries that only some of what the program does needs."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from clearclip.errors import UsageError


def require(library: str, *, extra: str, purpose: str) -> Any:
    """Import an optional library; `UsageError` says how to install what the extra of this package names.

    `purpose` is how the message begins.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs {library.partition('.')[0]} ({error}): {installation(extra)} (the extra {extra!r})"
        ) from error


def installation(extra: str) -> str:
    """The command that installs an extra's libraries, wherever clearclip itself was installed from.

    >>> installation("geo")
    'python -m pip install "rasterio>=1.4"'
    """
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(line) for line in requires("clearclip") or ()]
    except PackageNotFoundError:  # run from its sources, without an installation
        listed = []
    found = [one for one in listed if one.marker is not None and one.marker.evaluate({"extra": extra})]
    libraries = [f"{one.name}{'[' + ','.join(one.extras) + ']' if one.extras else ''}{one.specifier}" for one in found]
    return "python -m pip install " + " ".join(f'"{library}"' for library in libraries or [f".[{extra}]"])
