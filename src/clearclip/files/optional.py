"""Libraries that only some of what the program does needs."""

from __future__ import annotations

import importlib
from typing import Any

from clearclip.errors import UsageError


def require(library: str, *, extra: str, purpose: str) -> Any:
    """Import an optional library; `UsageError` names the extra of this package that installs it.

    `purpose` is how the message begins.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UsageError(
            f'{purpose} needs {library.partition(".")[0]} ({error}): python -m pip install "clearclip[{extra}]"'
        ) from error
