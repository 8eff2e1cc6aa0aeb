"""Colour of 16 bits a channel in PNG and TIFF: Pillow keeps the upper bytes, and is asked once more for the lower."""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

from clearclip.errors import ImageError

_OTHER_BYTES = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
}
PLANAR = 2


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
    other.tile = [_with_other_bytes(tile) for tile in other.tile]
    other.load()
    file.seek(place)
    return other


def _raw_mode(tile: Any) -> Any:
    return tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else None


def _with_other_bytes(tile: Any) -> Any:
    mode = _OTHER_BYTES[_raw_mode(tile)]
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def declared_bits(image: Image.Image) -> int | None:
    """How many bits of its values a TIFF says to use, or a PGM, which Pillow brings to 16 bits."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return 16 if image.format == "PPM" else None
