"""Files that appear under their names only when complete: label maps and overlays."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from clearclip.errors import printable

_READING_UMASK = threading.Lock()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside the wanted one, renamed to it when the block ends without an error.

    Args:
        path: Where the file shall stand; its folder exists.

    Yields:
        Where to write, with the same suffix; removed if the block fails.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    with _READING_UMASK:  # it can only be read by setting it, for all threads at once
        mask = os.umask(0)
        os.umask(mask)
    return mask


def save_label_map(
    label_map: npt.NDArray[Any],
    path: Path,
    *,
    palette: npt.NDArray[np.uint8],
    info: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG whose pixel values are label indices: with a palette up to 256 labels, else 16-bit grey.

    Args:
        label_map: `(H, W)`, whole numbers from 0 to 65535.
        path: Where to; `.png` is expected.
        palette: `(n, 3)` uint8.
        info: Texts kept in the file.

    Raises:
        OSError: The file cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for key, value in (info or {}).items():
        texts.add_itxt(key, printable(value))
    if len(palette) <= 256:
        image = Image.fromarray(label_map.astype(np.uint8)).convert("L")
        image.putpalette(palette.tobytes())
    else:
        image = Image.fromarray(label_map.astype(np.uint16))
    with atomic_write(path) as partial:
        image.save(partial, format="PNG", pnginfo=texts)


def read_info(path: Path) -> dict[str, str]:
    """The texts kept in a PNG.

    Args:
        path: A file written by `save_label_map`.

    Returns:
        Them; empty where the file is none of ours.
    """
    try:
        with Image.open(path) as image:
            return {key: str(value) for key, value in getattr(image, "text", {}).items()}
    except (OSError, SyntaxError, ValueError):
        return {}


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture; the suffix decides the format.

    Args:
        image: What to write.
        path: Where to.

    Raises:
        OSError: The file cannot be written.
        ValueError: The suffix is unknown.
    """
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with atomic_write(path) as partial:
        image.save(partial, **options)
