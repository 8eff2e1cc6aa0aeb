"""Image files, PIL images and arrays → uint8 RGB arrays, and the protocol's resize and normalisation."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from clearclip.errors import ImageError
from clearclip.protocol import Protocol

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"))

ImageLike = Any
_PILLOW_LIMIT = threading.Lock()


def load_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read an image as the viewer shows it: EXIF rotation applied, any mode turned into RGB.

    Args:
        image: A path, the bytes of a file, a PIL image, or an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`
            of uint8, uint16 or bool.
        max_pixels: Refuse larger images before they are decoded (decompression bombs).

    Returns:
        `(H, W, 3)` uint8. Transparent pixels are laid over white.

    Raises:
        ImageError: The file is missing, empty, damaged, no image, or too large; the array has another form.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        try:
            return _from_pil(image, "the image", max_pixels=max_pixels)
        except (OSError, SyntaxError, ValueError) as error:  # opened, but damaged further on
            raise ImageError(f"the image cannot be read ({error})") from error
    if isinstance(image, bytes):
        if not image:
            raise ImageError("the image is empty")
        return _from_file(io.BytesIO(image), "the image", max_pixels=max_pixels)
    if not isinstance(image, (str, Path)):
        raise ImageError(f"an image is a {type(image).__name__}: give a path, a PIL image or an array (H, W, 3)")
    path = Path(image)
    try:
        if not path.exists():
            raise ImageError(f"{path}: there is no such file")
        if path.is_dir():
            raise ImageError(f"{path} is a folder: name an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: the image cannot be read ({error})") from error
    return _from_file(path, str(path), max_pixels=max_pixels)


def _from_file(file: Path | io.BytesIO, name: str, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    try:
        with _open(file) as opened:
            return _from_pil(opened, name, max_pixels=max_pixels)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image that Pillow can read: give a JPEG, PNG, WebP, TIFF or BMP") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: the image cannot be read ({error})") from error


def _open(file: Path | io.BytesIO) -> Image.Image:
    with _PILLOW_LIMIT, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, name: str, *, max_pixels: int) -> None:
    if not width * height:
        raise ImageError(f"{name} has {width}×{height} pixels: at least one is needed")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width}×{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}: "
            "raise it with --max-pixels (max_pixels=) if you trust the file, or use `clearclip large`, which cuts tiles"
        )


def _from_pil(image: Image.Image, name: str, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    _check_size(*image.size, name, max_pixels=max_pixels)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        return _to_rgb(_to_bytes(np.asarray(upright), name))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(canvas, rgba).convert("RGB"))
    return np.asarray(upright.convert("RGB"))


def _from_array(array: npt.NDArray[Any], *, max_pixels: int) -> npt.NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ImageError(
            f"an image array has the shape {array.shape}: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is needed"
        )
    if array.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(f"an image array has the type {array.dtype}: uint8 (0–255), uint16 or bool is needed")
    _check_size(array.shape[1], array.shape[0], "the array", max_pixels=max_pixels)
    pixels = _to_bytes(array, "the array")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _from_pil(Image.fromarray(pixels, "RGBA"), "the array", max_pixels=max_pixels)
    return _to_rgb(pixels)


def _to_bytes(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        levels: npt.NDArray[np.uint8] = np.multiply(array, 255, dtype=np.uint8)
        return levels
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ImageError(f"{name} has values from {low:g} to {high:g}: 8 or 16 bits a channel are needed")
    if array.dtype.kind == "f" and high <= 1:
        return np.asarray(np.rint(array * 255), dtype=np.uint8)
    if array.dtype.kind == "f" and high <= 255:
        return np.asarray(np.rint(array), dtype=np.uint8)
    return np.asarray(np.rint(array.astype(np.float64) / 257), dtype=np.uint8)


def _to_rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    grey = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def resized_size(height: int, width: int, protocol: Protocol) -> tuple[int, int]:
    """Size after the protocol's resize: one scale for both sides, `int(side · scale + 0.5)`.

    Args:
        height: Pixels of the original.
        width: Pixels of the original.
        protocol: In pixels.

    Returns:
        `(height, width)`, each at least 1.
    """
    scale = min(protocol.short_side / min(height, width), protocol.long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bilinear resize of uint8 RGB without antialiasing, as OpenCV's INTER_LINEAR (within one grey level).

    Args:
        image: `(H, W, 3)` uint8.
        size: `(height, width)` wanted.

    Returns:
        `(height, width, 3)` uint8.
    """
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    rounded: npt.NDArray[np.uint8] = resized.round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return rounded


def normalize(image: npt.NDArray[np.uint8], *, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Scale to 0–1, subtract the mean, divide by the deviation.

    Args:
        image: `(H, W, 3)` uint8.
        mean: Per channel, in units of 0–1.
        std: Per channel, in units of 0–1.

    Returns:
        `(3, H, W)` float32.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    offset = torch.tensor(mean).view(3, 1, 1) * 255
    scale = torch.tensor(std).view(3, 1, 1) * 255
    return (pixels - offset) / scale
