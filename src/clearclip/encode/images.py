"""Image files, PIL images and arrays → uint8 RGB arrays, and the protocol's resize and normalisation."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError

from clearclip.encode.deep import declared_bits, low_bytes
from clearclip.encode.levels import check_range, find_range, to_levels
from clearclip.errors import ImageError
from clearclip.files.reading import Metered, open_regular
from clearclip.protocol import Protocol

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30
MAX_READS = 1_000_000
"""Pieces that a file may consist of: the blocks of a PNG, the segments of a JPEG, the entries of a TIFF."""
MAX_EXIF = 1 << 16
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"))
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "MPO", "DIB", "AVIF", "HEIF")
"""Pillow's decoders that may see a file. Others run programs (EPS: Ghostscript), or few people have tested them."""

RASTERS = (".tif", ".tiff", ".nc", ".h5", ".hdf", ".vrt", ".img", ".grb")
ImageLike = Any


class Levels(NamedTuple):
    """An image as `load_image` returns it, and what must be known about its range: empty if nothing was guessed."""

    pixels: npt.NDArray[np.uint8]
    guess: str


_PILLOW_GLOBALS = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    image: ImageLike, *, max_pixels: int = MAX_PIXELS, value_range: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as the viewer shows it: EXIF rotation applied, any mode turned into RGB `(H, W, 3)`.

    An image is a path, the bytes of a file, a PIL image, or an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`
    of uint8, uint16 or bool; transparent pixels are laid over white. `value_range` becomes black and white, by default
    what `levels.find_range` finds; an array of uint8 is levels already. `ImageError` for whatever cannot be read, and,
    before they are decoded, for files of more than `max_pixels` or 1 GB (16 bytes a pixel where that is more).
    """
    pixels, guess = read_levels(image, max_pixels=max_pixels, value_range=value_range)
    if guess:
        warnings.warn(guess, stacklevel=2)
    return pixels


def read_levels(image: ImageLike, *, max_pixels: int, value_range: tuple[float, float] | None) -> Levels:
    """As `load_image`, without the warning: the pixels, and how their range was guessed."""
    if value_range is not None:
        check_range(value_range)
    if isinstance(image, np.ndarray):
        return _from_array(np.asarray(image), max_pixels=max_pixels, value_range=value_range)
    if isinstance(image, Image.Image):
        with _decoding("the image"):
            return _from_pil(image, "the image", max_pixels=max_pixels, value_range=value_range)
    if not isinstance(image, (bytes, str, Path)):
        raise ImageError(f"an image is a {type(image).__name__}: give a path, a PIL image or an array (H, W, 3)")
    with open_image(image, max_pixels=max_pixels) as opened:
        return _from_pil(opened, _name(image), max_pixels=max_pixels, value_range=value_range)


@contextmanager
def open_image(image: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Read an image file's head; `ImageError` for whatever goes wrong with it until the block ends."""
    with _decoding(_name(image)), _open(image, limit=max(MAX_BYTES, 16 * max_pixels)) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise ImageError(f"{_name(image)}: the file is empty")
        with Metered(
            file, max_bytes=4 * size + (1 << 20), max_reads=MAX_READS
        ) as metered:  # TIFF reads its tables twice
            with _pillow_globals():
                Image.init()
                opened = Image.open(metered, formats=[name for name in FORMATS if name in Image.OPEN])
            with opened:
                yield opened


def _name(image: bytes | str | Path) -> str:
    return "the image" if isinstance(image, bytes) else str(image)


def _open(image: bytes | str | Path, *, limit: int) -> BinaryIO:
    return io.BytesIO(image) if isinstance(image, bytes) else open_regular(image, limit=limit)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises, from `struct.error` to `MemoryError`, says that this image cannot be read."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file") from error
    except UnidentifiedImageError as error:
        more = f"; `clearclip large {name}` reads rasters of more kinds" if name.lower().endswith(RASTERS) else ""
        raise ImageError(
            f"{name} is no image that Pillow can read: give a JPEG, PNG, WebP, TIFF or BMP{more}"
        ) from error
    except Exception as error:
        raise ImageError(f"{name}: the image cannot be read ({error or type(error).__name__})") from error


@contextmanager
def _pillow_globals(limit: int | None = None) -> Iterator[None]:
    """Without Pillow's warnings and with another limit of pixels, both of which are settings of the whole process."""
    with _PILLOW_GLOBALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_size(width: int, height: int, name: str, *, max_pixels: int) -> None:
    if not width * height:
        raise ImageError(f"{name} has {width}×{height} pixels: at least one is needed")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width}×{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}: "
            "raise it with --max-pixels (max_pixels=) if you trust the file, or use `clearclip large`, which cuts tiles"
        )


def _from_pil(image: Image.Image, name: str, *, max_pixels: int, value_range: tuple[float, float] | None) -> Levels:
    width, height = image.size
    _check_size(width, height, name, max_pixels=max_pixels)
    is_large = width * height > (Image.MAX_IMAGE_PIXELS or max_pixels)
    with _pillow_globals(max_pixels) if is_large else nullcontext():  # TIFF asks again for the limit
        lower = low_bytes(image)
        image.load()
    upright = _upright(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        grey, guess = _to_levels(np.asarray(upright), name, value_range, bits=declared_bits(image))
        return Levels(_to_rgb(grey), guess)
    guess = ""
    if lower is not None:
        colors = np.asarray(upright, dtype=np.uint16) << 8 | np.asarray(_upright(lower))
        levels, guess = _to_levels(colors[..., :3], name, value_range)
        alpha = np.asarray(upright)[..., 3:]
        upright, value_range = Image.fromarray(np.concatenate([levels, alpha], axis=-1)), None
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(canvas, rgba)
    pixels = np.asarray(upright.convert("RGB"))
    return Levels(pixels, guess) if value_range is None else _to_levels(pixels, name, value_range)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is where that is damaged: its pixels are whole all the same."""
    image.load()
    try:
        for key in {"exif", "Raw profile type exif"} & image.info.keys():
            image.info[key] = image.info[key][:MAX_EXIF]  # all entries may refer to all of it: the square in memory
        with _pillow_globals():
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _from_array(array: npt.NDArray[Any], *, max_pixels: int, value_range: tuple[float, float] | None) -> Levels:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ImageError(
            f"an image array has the shape {array.shape}: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is needed"
        )
    if array.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(f"an image array has the type {array.dtype}: uint8 (0–255), uint16 or bool is needed")
    _check_size(array.shape[1], array.shape[0], "the array", max_pixels=max_pixels)
    value_range = None if array.dtype == np.uint8 else value_range
    if array.ndim == 3 and array.shape[2] == 4:
        colors, guess = _to_levels(array[..., :3], "the array", value_range)
        alpha = to_levels(array[..., 3:], 0, 1 if array.dtype == np.bool_ else np.iinfo(array.dtype).max)
        rgba = Image.fromarray(np.concatenate([colors, alpha], axis=-1), "RGBA")
        return Levels(_from_pil(rgba, "the array", max_pixels=max_pixels, value_range=None).pixels, guess)
    levels, guess = _to_levels(array, "the array", value_range)
    return Levels(_to_rgb(levels), guess)


def _to_levels(
    array: npt.NDArray[Any], name: str, value_range: tuple[float, float] | None, *, bits: int | None = None
) -> Levels:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{name} has values that are no numbers (nan or inf): `clearclip large` takes them for nodata")
    if value_range is None:
        low, high, guess = find_range(array, bits=bits)
        return Levels(array if array.dtype == np.uint8 else to_levels(array, low, high), guess)
    low, high = value_range
    beyond = array.dtype == np.uint8 and high > 255
    said = f"an image of 8 bits was given the range {low:g} to {high:g}: it becomes darker" if beyond else ""
    return Levels(to_levels(array, low, high), said)


def _to_rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    grey = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def resized_size(height: int, width: int, protocol: Protocol) -> tuple[int, int]:
    """`(height, width)` after the protocol's resize: one scale for both, `int(side · scale + 0.5)`, at least 1."""
    scale = min(protocol.short_side / min(height, width), protocol.long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bilinear resize of uint8 RGB without antialiasing, as OpenCV's INTER_LINEAR (within one grey level)."""
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    rounded: npt.NDArray[np.uint8] = resized.round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return rounded


def normalize(image: npt.NDArray[np.uint8], *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Pixels `(H, W, 3)` of 0–255, less the mean and divided by the deviation in units of 0–1: `(3, H, W)` float32."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    offset = torch.tensor(mean).view(3, 1, 1) * 255
    scale = torch.tensor(std).view(3, 1, 1) * 255
    return (pixels - offset) / scale
