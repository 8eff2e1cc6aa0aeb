"""Colour of 16 bits a channel in PNG and TIFF: Pillow keeps the upper bytes, and is asked once more for the lower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from clearclip.errors import ImageError

_OTHER_BYTES = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
} | {"LA;16B": "RGBA"}
PLANAR, SIGNED, WHITE_IS_0 = 2, 2, 0
GREY_ALPHA = "LA;16B"
SHALLOW = "of its 16 bits a channel the upper 8 are read, which is nearly black where fewer are used: save it as PNG"


def low_bytes(image: Image.Image) -> Image.Image | None:
    """A file's image with the lower bytes of its colours, before it is loaded; `None` where there are none.

    `ImageError` for a TIFF with one plane for each channel: Pillow reads its 16 bits as something else.
    """
    tiles, file = getattr(image, "tile", []), getattr(image, "fp", None)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == PLANAR and max(bits) > 8:
        raise ImageError(
            f"a TIFF of {max(bits)} bits with a plane for each channel, which Pillow cannot read: use "
            "`clearclip large` (extra geo), or save it with interleaved channels"
        )
    if file is None or not tiles or not all(_raw_mode(tile) in _OTHER_BYTES for tile in tiles):
        return None
    place = file.tell()
    file.seek(0)
    other = Image.open(file, formats=[str(image.format)])
    other.seek(image.tell())
    is_grey = _raw_mode(other.tile[0]) == GREY_ALPHA
    other.tile = [_with_other_bytes(tile) for tile in other.tile]
    other.load()
    file.seek(place)
    if is_grey:  # read as four channels of 8 bits: the bytes of grey, then those of alpha
        _, grey, _, alpha = other.split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))
    return other


def _raw_mode(tile: Any) -> Any:
    return tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else None


def _with_other_bytes(tile: Any) -> Any:
    mode = _OTHER_BYTES[_raw_mode(tile)]
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


@dataclass(frozen=True)
class Declared:
    """What a file says of its values, before they are loaded.

    Attributes:
        bits: How many of their bits are used, where it says so.
        scale: What Pillow multiplies them by.
        inverted: Whether the largest is black.
        note: What of them Pillow does not read.
    """

    bits: int | None = None
    scale: float = 1.0
    inverted: bool = False
    note: str = ""


def declared(image: Image.Image) -> Declared:
    """What a TIFF, PGM, PPM or SGI file says of its values; to be asked before it is loaded.

    `ImageError` for values that Pillow reads as others.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits, kinds = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
        if SIGNED in kinds and bits == 8:
            raise ImageError("a TIFF of signed 8-bit values, which Pillow cannot read: use `clearclip large`")
        inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_0 and image.mode not in ("1", "L")
        return Declared(bits if bits % 8 and SIGNED not in kinds else None, inverted=inverted)
    tile = next(iter(getattr(image, "tile", ())), None)
    if image.format == "PPM" and tile is not None and isinstance(tile.args, tuple):
        most = tile.args[1]  # Pillow brings it to 255, or to 65535 in grey
        if image.mode == "I":
            return Declared(16, scale=65535 / most) if most < 65535 else Declared()
        return Declared(note=SHALLOW if most == 65535 else "")
    is_deep = tile is not None and (tile.codec_name == "SGI16" or (tile.codec_name == "sgi_rle" and tile.args[2] == 2))
    return Declared(note=SHALLOW if image.format == "SGI" and is_deep else "")
