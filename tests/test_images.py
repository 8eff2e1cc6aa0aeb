"""Reading images of every kind, and the refusal of what is none."""

import io
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bombs import bomb
from clearclip import ImageError, Protocol, load_image
from clearclip.encode.images import normalize, read_levels, resize, resized_size
from clearclip.files.kinds import IMAGE_SUFFIXES
from clearclip.protocol import CLIP_MEAN, CLIP_STD, PROTOCOLS


@pytest.fixture
def smooth():
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:24, :36]
    return np.stack([y * 7, x * 5, 255 - y * 3 - x * 4], axis=-1).astype(np.uint8)


def test_paths_pil_and_arrays_agree(tmp_path, smooth):
    file = tmp_path / "a.png"
    Image.fromarray(smooth).save(file)
    for form in (file, str(file), file.read_bytes(), Image.open(file), Image.fromarray(smooth), smooth):
        loaded = load_image(form)
        assert loaded.dtype == np.uint8
        assert np.array_equal(loaded, smooth)


def test_grey_palette_and_bits(tmp_path, smooth):
    grey = Image.fromarray(smooth).convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    for mode in ("L", "LA"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        assert np.array_equal(load_image(tmp_path / f"{mode}.png"), expected)
    assert np.array_equal(load_image(np.asarray(grey)), expected)
    assert np.array_equal(load_image(np.asarray(grey)[..., None]), expected)
    palette = Image.fromarray(smooth).quantize(16)
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "p.gif")
    assert np.array_equal(load_image(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))
    assert np.array_equal(load_image(tmp_path / "p.gif"), np.asarray(palette.convert("RGB")))
    bits = np.asarray(grey) > 128
    Image.fromarray(bits).save(tmp_path / "1.png")
    for form in (tmp_path / "1.png", bits):
        assert np.array_equal(load_image(form), np.repeat(bits[..., None], 3, axis=2) * np.uint8(255))


def test_transparent_pixels_lie_over_white(tmp_path, smooth):
    alpha = np.zeros((24, 36, 1), dtype=np.uint8)
    alpha[:12], alpha[12:18] = 255, 128
    rgba = np.concatenate([smooth, alpha], axis=2)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    for form in (tmp_path / "a.png", rgba, Image.fromarray(rgba)):
        with pytest.warns(UserWarning, match="its transparent pixels lie over white"):
            loaded = load_image(form)
        assert np.array_equal(loaded[:12], smooth[:12])
        assert (loaded[18:] == 255).all()
        half = np.rint(smooth[12:18] * (128 / 255) + 255 * (127 / 255))
        assert np.abs(loaded[12:18] - half).max() <= 1
    palette = Image.fromarray(smooth).quantize(4)
    palette.save(tmp_path / "t.png", transparency=0)
    with pytest.warns(UserWarning, match=r"t.png: its transparent pixels"):
        loaded = load_image(tmp_path / "t.png")
    assert (loaded[np.asarray(palette) == 0] == 255).all()
    assert np.array_equal(
        loaded[np.asarray(palette) != 0], np.asarray(palette.convert("RGB"))[np.asarray(palette) != 0]
    )


def test_a_picture_that_could_be_transparent_and_is_not_is_none(smooth):
    half = np.dstack([smooth, np.full(smooth.shape[:2], 1, dtype=np.uint8)])
    assert read_levels(half).note == ""


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path, suffix):
    deep = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 75
    Image.fromarray(deep).save(tmp_path / f"deep{suffix}")
    expected = np.rint(deep / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    for form in (tmp_path / f"deep{suffix}", deep, deep[..., None]):
        assert np.array_equal(load_image(form), expected)
    with pytest.warns(UserWarning, match="int32 values: 0 to 65535 was taken"):
        assert np.array_equal(load_image(Image.fromarray(deep.astype(np.int32))), expected)
    colour = np.stack([deep, deep, deep], axis=-1)
    assert np.array_equal(load_image(colour), expected)


def test_cmyk_and_ycbcr(tmp_path, smooth):
    cmyk = Image.fromarray(smooth).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert np.abs(load_image(tmp_path / "cmyk.jpg").astype(int) - smooth).max() <= 6
    assert np.abs(load_image(Image.fromarray(smooth).convert("YCbCr")).astype(int) - smooth).max() <= 3
    for mode in ("HSV", "LAB", "RGBX", "RGBa", "PA"):
        picture = Image.new(mode, (5, 4), tuple(255 for _ in Image.new(mode, (1, 1)).getbands()))
        assert load_image(picture).shape == (4, 5, 3), mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, smooth, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth).save(tmp_path / "e.png", exif=exif)
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}[orientation]
    flipped = smooth[:, ::-1] if orientation in (2, 4) else smooth
    upright = np.rot90(flipped, turns)
    if orientation in (5, 7):
        upright = upright[:, ::-1]
    assert np.array_equal(load_image(tmp_path / "e.png"), upright)
    with Image.open(tmp_path / "e.png") as stored:  # as docs/outputs.md says
        assert np.array_equal(ImageOps.exif_transpose(stored), upright)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_extreme_shapes(shape):
    image = np.full((*shape, 3), 77, dtype=np.uint8)
    assert load_image(image).shape == (*shape, 3)
    for protocol in PROTOCOLS.values():
        numbers = protocol.in_pixels(224)
        size = resized_size(*shape, numbers)
        assert min(size) >= 1
        assert max(size) <= max(numbers.long_side, 1) + 1
        assert (resize(image, size) == 77).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello, this is a text file", "no image that Pillow can read"),
        (b"\xff\xd8\xff\xe0", "a.jpg"),
        (b"\x89PNG\r\n\x1a\n", "a.jpg"),
        (b"\0" * 5000, "a.jpg"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, said):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=said) as caught:
        load_image(file)
    assert str(file) in str(caught.value)


def test_places_without_a_file(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    for name in ("x" * 300 + ".jpg", "a\0b.jpg"):
        with pytest.raises(ImageError):
            load_image(name)
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    with pytest.raises(ImageError):
        load_image(loop)


def test_a_damaged_picture_that_is_already_open(tmp_path, picture):
    file = tmp_path / "a.png"
    Image.fromarray(picture(100, 100)).save(file)
    file.write_bytes(file.read_bytes()[:-9000])
    with Image.open(file) as opened, pytest.raises(ImageError, match="cannot be read"):
        load_image(opened)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(Image.new("La", (2, 2)))


def test_truncated_jpeg(tmp_path, picture):
    file = tmp_path / "a.jpg"
    Image.fromarray(picture(200, 200)).save(file)
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(ImageError, match="truncated"):
        load_image(file)


SAVED = {
    ".jpg": {},
    ".png": {},
    ".webp": {},
    ".bmp": {},
    ".tif": {"compression": "tiff_lzw"},
    ".tiff": {},
    ".gif": {},
    ".ppm": {},
    ".jp2": {},
}


@pytest.mark.parametrize("suffix", SAVED)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_an_image_error_and_nothing_else(tmp_path, smooth, suffix):
    """Cut and flipped at many places: either Pillow still reads it, or we say that it cannot be read."""
    assert suffix in IMAGE_SUFFIXES
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "words"
    buffer = io.BytesIO()
    options = SAVED[suffix] | ({"exif": exif} if suffix in (".jpg", ".png", ".webp", ".tif") else {})
    Image.fromarray(smooth).save(buffer, Image.registered_extensions()[suffix], **options)
    whole, chance, file = buffer.getvalue(), random.Random(0), tmp_path / f"a{suffix}"
    refused = 0
    for attempt in range(150):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            damaged = damaged[: chance.randrange(len(whole))]
        for _ in range(attempt % 7):
            if damaged:
                damaged[chance.randrange(min(len(damaged), 600))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            assert load_image(file, max_pixels=4_000_000).ndim == 3
        except ImageError:
            refused += 1
    assert refused > 5


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, picture):
    with pytest.raises(ImageError, match=r"3,600,000,000 pixels.*--max-pixels"):
        load_image(bomb(tmp_path / "bomb.png"))
    limit = Image.MAX_IMAGE_PIXELS
    image = picture(10, 11)
    Image.fromarray(image).save(tmp_path / "a.png")
    for form in (tmp_path / "a.png", image, Image.fromarray(image)):
        with pytest.raises(ImageError, match="110 pixels, more than the limit of 109"):
            load_image(form, max_pixels=109)
        assert np.array_equal(load_image(form, max_pixels=110), image)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_larger_than_pillows_own_limit_is_read_where_allowed(tmp_path, monkeypatch, picture):
    Image.fromarray(picture(40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(tmp_path / "a.png").shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), "float32"),
        (np.zeros((4, 4, 3), dtype=np.int64), "int64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "shape"),
        (np.zeros((3, 4, 4), dtype=np.uint8)[None], "shape"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "shape"),
        (np.zeros(4, dtype=np.uint8), "shape"),
        (None, "NoneType"),
        (torch.zeros(3, 4, 4), "Tensor"),
        (bytearray(b"bytes"), "bytearray"),
        (b"bytes", "no image that Pillow can read"),
        (b"", "empty"),
        (Image.new("RGB", (0, 5)), "0×5"),
        (Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)), "nan"),
    ],
)
def test_values_that_are_no_images(array, said):
    with pytest.raises(ImageError, match=said):
        load_image(array)


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_one_scale_for_both_sides(height, width):
    paper = PROTOCOLS["paper"]
    size = resized_size(height, width, paper)
    scale = min(448 / min(height, width), 2048 / max(height, width))
    assert size == (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    assert max(size) <= 2048
    assert min(size) == 448 or max(size) == 2048


def test_resize_is_plain_bilinear(picture):
    image = picture(30, 50)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), size=(17, 71), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert np.abs(resize(image, (17, 71)) - expected.numpy()).max() <= 0.5001
    assert resize(image, (30, 50)) is image


def test_normalize(picture):
    image = picture(4, 5)
    expected = (image / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    result = normalize(image, mean=CLIP_MEAN, std=CLIP_STD)
    assert result.shape == (3, 4, 5)
    torch.testing.assert_close(result, torch.from_numpy(expected).permute(2, 0, 1).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"short_side": 0}, "short_side"),
        ({"crop_size": -1}, "crop_size"),
        ({"stride": 500}, "stride=500 is larger than crop_size"),
        ({"stride": float("nan")}, "stride"),
        ({"long_side": float("inf")}, "long_side"),
        ({"logit_scale": 0}, "logit_scale"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"units": "metres"}, "units"),
        ({"normalization": "clp"}, "did you mean 'clip'"),
    ],
)
def test_protocols_that_are_refused(numbers, said):
    from clearclip import UsageError

    with pytest.raises(UsageError, match=said):
        Protocol(**{"short_side": 448, "long_side": 2048, "crop_size": 448, "stride": 224, **numbers})


def test_presets():
    assert {"native", "paper", "voc21", "cityscapes"} <= set(PROTOCOLS)
    native = PROTOCOLS["native"].in_pixels(224)
    assert (native.short_side, native.long_side, native.crop_size, native.stride) == (448, 2048, 448, 224)
    assert (PROTOCOLS["cityscapes"].crop_size, PROTOCOLS["cityscapes"].stride) == (224, 224)
    thresholds = {name: row.threshold for name, row in PROTOCOLS.items() if row.threshold is not None}
    assert thresholds == {"voc21": 0.5, "context60": 0.15, "coco_object": 0.4}
    assert PROTOCOLS["native"].in_pixels(64).crop_size == 128
