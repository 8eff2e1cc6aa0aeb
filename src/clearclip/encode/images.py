"""Image files, PIL images and arrays → uint8 RGB arrays, and the protocol's resize and normalisation."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from clearclip.encode.deep import declared, low_bytes
from clearclip.encode.levels import check_range, find_range, to_levels
from clearclip.errors import ImageError
from clearclip.files.extras import PNG, png_damage, without_extras
from clearclip.files.kinds import HEAD, IMAGE_FORMATS, kind_of
from clearclip.files.reading import ExhaustedError, Metered, open_regular
from clearclip.protocol import Protocol

MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30
MAX_READS = 1_000_000
"""Pieces that a file may consist of: the blocks of a PNG, the segments of a JPEG, the entries of a TIFF."""
MAX_EXIF = 1 << 16
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
MAX_REPAIRED = 1 << 27
"""Bytes of a file that is read once more without what stands beside its pixels."""

NEW_SUBFILE_TYPE, COPY_OR_MASK = 254, 5

CLEAR = "its transparent pixels lie over white and are labelled as white (`clearclip large` leaves them unlabelled)"
RASTERS = (".tif", ".tiff", ".nc", ".h5", ".hdf", ".vrt", ".img", ".grb")
ImageLike = Any


class Levels(NamedTuple):
    """An image as `load_image` returns it, and a note where a range was guessed, or pixels or pages are not in it."""

    pixels: npt.NDArray[np.uint8]
    note: str


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
    of uint8, uint16 or bool. Transparent pixels are laid over white, with a warning if some have alpha 0. `value_range`
    becomes black and white, by default what `levels.find_range` finds; an array of uint8 is levels already. Of a file
    of many pages the first is taken, with a warning. `ImageError` for whatever cannot be read, and, before they are
    decoded, for files of more than `max_pixels` or 1 GB (16 bytes a pixel where that is more).
    """
    pixels, note = read_levels(image, max_pixels=max_pixels, value_range=value_range)
    if note:
        warnings.warn(f"{_name(image)}: {note}" if isinstance(image, (bytes, str, Path)) else note, stacklevel=2)
    return pixels


def read_levels(
    image: ImageLike, *, max_pixels: int = MAX_PIXELS, value_range: tuple[float, float] | None = None
) -> Levels:
    """As `load_image`, with a note instead of the warning."""
    if value_range is not None:
        check_range(value_range)
    if isinstance(image, np.ndarray):
        return _from_array(np.asarray(image), max_pixels=max_pixels, value_range=value_range)
    if isinstance(image, Image.Image):
        with _decoding("the image"):
            return _from_pil(image, "the image", max_pixels=max_pixels, value_range=value_range)
    if not isinstance(image, (bytes, str, Path)):
        raise ImageError(f"an image is a {type(image).__name__}: give a path, a PIL image or an array (H, W, 3)")
    return _from_file(image, max_pixels=max_pixels, value_range=value_range)


def _from_file(image: bytes | str | Path, *, max_pixels: int, value_range: tuple[float, float] | None) -> Levels:
    name, limit = _name(image), max(MAX_BYTES, 16 * max_pixels)
    decoded = partial(_decoded, name=name, max_pixels=max_pixels, value_range=value_range)
    with _decoding(name):
        try:
            with _open(image, limit=limit) as file:
                return decoded(file)
        except (ImageError, ExhaustedError):
            raise
        except Exception as error:
            with _open(image, limit=limit) as file:
                data = file.read(MAX_REPAIRED)
            if (plain := without_extras(data)) not in (None, data):
                with suppress(Exception):
                    return decoded(io.BytesIO(plain))
            if data.startswith(JPEG_2000):
                raise ImageError(f"{name} cannot be read by Pillow ({error}): try `clearclip large`") from error
            if isinstance(error, UnidentifiedImageError) and (kind := kind_of(data[:HEAD])):
                raise ImageError(f"{name} cannot be read: it is {kind}") from error
            raise


def _decoded(file: BinaryIO, *, name: str, max_pixels: int, value_range: tuple[float, float] | None) -> Levels:
    with _metered(file, name) as metered:
        if metered.read(len(PNG)) == PNG and (damage := png_damage(metered)):
            raise ImageError(f"{name}: {damage}")
        with _head(metered) as opened:
            pixels, note = _from_pil(opened, name, max_pixels=max_pixels, value_range=value_range)
            return Levels(pixels, _joined(note, _other_pages(opened)))


@contextmanager
def open_image(image: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Read an image file's head; `ImageError` for whatever goes wrong with it until the block ends."""
    name = _name(image)
    with (
        _decoding(name),
        _open(image, limit=max(MAX_BYTES, 16 * max_pixels)) as file,
        _metered(file, name) as metered,
        _head(metered) as opened,
    ):
        yield opened


def _metered(file: BinaryIO, name: str) -> Metered:
    if not (size := file.seek(0, os.SEEK_END)):
        raise ImageError(f"{name}: the file is empty")
    file.seek(0)
    return Metered(file, max_bytes=4 * size + (1 << 20), max_reads=MAX_READS)  # TIFF reads its tables twice


def _head(file: BinaryIO) -> Image.Image:
    with _pillow_globals():
        return Image.open(file, formats=_decoders())


@cache
def _decoders() -> list[str]:
    """The formats that this Pillow reads; HEIC, if the extra `heic` is there."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


def _other_pages(image: Image.Image) -> str:
    """What a file holds beside its first page, once that was read; a TIFF's smaller copies and masks are no pages."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):  # previews and depths of one photograph
        return ""
    try:
        count = getattr(image, "n_frames", 1)
        if image.format == "TIFF":
            count -= sum(_is_copy_or_mask(image, page) for page in range(1, count))
    except Exception:  # the first page is whole
        return "its further pages cannot be read, the first is taken"
    return "" if count == 1 else f"it has {count:,} pages, the first is taken"


def _is_copy_or_mask(image: Any, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & COPY_OR_MASK)


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
        said, lower = declared(image), low_bytes(image)
        image.load()
    upright = _upright(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        values = np.asarray(upright)
        if image.format == "PPM" and said.bits is None and upright.mode == "I":
            values = values.astype(np.uint16)
        if values.dtype == np.int32 and image.format == "TIFF" and _wraps(image) and values.min() < 0:
            raise ImageError(f"{name} has values of 2³¹ and more, which Pillow cannot read: use `clearclip large`")
        if value_range is not None:
            value_range = (value_range[0] * said.scale, value_range[1] * said.scale)
        grey, guess = _to_levels(values, name, value_range, bits=said.bits)
        return Levels(_to_rgb(255 - grey if said.inverted else grey), guess)
    guess = said.note
    if lower is not None:
        colors = np.asarray(upright, dtype=np.uint16) << 8 | np.asarray(_upright(lower))
        levels, guess = _to_levels(colors[..., :3], name, value_range)
        alpha = np.asarray(upright)[..., 3:]
        upright, value_range = Image.fromarray(np.concatenate([levels, alpha], axis=-1)), None
    clear = ""
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        clear = CLEAR if rgba.getchannel("A").getextrema()[0] == 0 else ""
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(canvas, rgba)
    pixels = np.asarray(upright.convert("RGB"))
    if value_range is not None:
        pixels, guess = _to_levels(pixels, name, value_range)
    return Levels(pixels, _joined(guess, clear))


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _wraps(image: Any) -> bool:
    """Whether a TIFF's 32 bits, which Pillow reads as signed, have no sign."""
    return 1 in image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = exif_turn(image)
    return image if turn is None else image.transpose(turn)


def exif_turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF says that an open image is shown; `None` as it is, also where that is damaged."""
    try:
        for key in {"exif", "Raw profile type exif"} & image.info.keys():
            image.info[key] = image.info[key][:MAX_EXIF]  # all entries may refer to all of it: the square in memory
        with _pillow_globals():
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


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
        pixels, clear = _from_pil(rgba, "the array", max_pixels=max_pixels, value_range=None)
        return Levels(pixels, _joined(guess, clear))
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
