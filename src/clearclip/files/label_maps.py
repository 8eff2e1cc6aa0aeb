"""Files that appear under their names only when complete: label maps, pictures, JSON; and what is read back of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, PngImagePlugin

from clearclip.errors import printable
from clearclip.files.reading import open_regular, read_text
from clearclip.files.writing import atomic_write

MAX_SETTINGS = 64 << 20
JPEG_COMMENT = 65_533  # bytes that one segment of a JPEG holds


def save_label_map(
    label_map: npt.NDArray[Any],
    path: Path,
    *,
    palette: npt.NDArray[np.uint8],
    info: Mapping[str, str] | None = None,
    replace: bool = True,
) -> None:
    """Write a PNG whose pixel values are label indices (H, W): a palette of 8 bits up to 256 labels, else 16-bit grey.

    With fewer bits, Pillow's choice for few colours, some readers return other values. `info` are texts that are kept
    in the file; `replace` as in `atomic_write`.
    """
    if len(palette) <= 256:
        image = Image.fromarray(label_map.astype(np.uint8)).convert("L")
        image.putpalette(palette.tobytes())
    else:
        image = Image.fromarray(label_map.astype(np.uint16))
    with atomic_write(path, replace=replace) as partial:
        image.save(partial, format="PNG", bits=8, pnginfo=_texts(info))


def read_info(path: Path) -> dict[str, str]:
    """Read the texts that clearclip stored in a PNG without decoding its pixels; {} for a file that is no PNG."""
    try:
        with open_regular(path) as file, PngImagePlugin.PngImageFile(file) as image:
            return {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError):
        return {}


def read_comment(path: Path) -> dict[str, str]:
    """The texts that `save_image` kept in a JPEG's comment; {} for any other file. Its pixels are not decoded."""
    try:
        with open_regular(path) as file, JpegImagePlugin.JpegImageFile(file) as image:
            texts = json.loads(image.info.get("comment", b"{}"))
    except (OSError, SyntaxError, ValueError):
        return {}
    return {key: value for key, value in texts.items() if isinstance(value, str)} if isinstance(texts, dict) else {}


def save_image(image: Image.Image, path: Path, *, info: Mapping[str, str] | None = None) -> None:
    """Write a picture in the suffix's format; `info` becomes a PNG's text chunks, or a JPEG's comment as JSON."""
    suffix = path.suffix.lower()
    options: dict[str, Any] = {}
    if suffix in (".jpg", ".jpeg"):
        texts = {key: printable(value) for key, value in (info or {}).items()}
        comment = json.dumps(texts, ensure_ascii=False).encode()
        options = {"quality": 92, "comment": comment if info and len(comment) <= JPEG_COMMENT else b""}
    elif suffix == ".png":
        options = {"pnginfo": _texts(info)}
    with atomic_write(path) as partial:
        image.save(partial, **options)


def _texts(info: Mapping[str, str] | None) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in (info or {}).items():
        texts.add_itxt(key, printable(value))
    return texts


def save_json(
    path: Path, head: Mapping[str, Any], arrays: Mapping[str, Iterable[Any]], *, replace: bool = True
) -> None:
    """Write a JSON object: the members of `head`, then `arrays`, which never are in memory as a whole."""
    with atomic_write(path, replace=replace) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(json.dumps(head, ensure_ascii=False, indent=1)[:-2] if head else "{")
        for number, (key, items) in enumerate(arrays.items()):
            stream.write(f"{',' if head or number else ''}\n {json.dumps(key)}: ")
            write_json_array(stream, items)
        stream.write("\n}\n")


def verify(file: BinaryIO) -> None:
    """Compare the checksums of an open label map, and rewind it; Pillow alone takes a damaged end for pixels."""
    with Image.open(file) as image:
        image.verify()
    file.seek(0)


def read_settings(path: Path) -> Any:
    """What `save_json` wrote under "settings"; `None` where the file is missing or another one."""
    try:
        return json.loads(read_text(path, limit=MAX_SETTINGS))["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_json_array(stream: TextIO, items: Iterable[Any]) -> None:
    """Write a JSON array, one line an item."""
    separator = "["
    for item in items:
        stream.write(separator + "\n" + json.dumps(item, ensure_ascii=False, separators=(",", ":")))
        separator = ","
    stream.write("[]" if separator == "[" else "\n]")
