"""What becomes black and what white: one rule for every kind of values, told where it is a guess."""

import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image

import clearclip
from clearclip.encode.images import load_image
from clearclip.encode.levels import find_range, parse_range
from clearclip.errors import ImageError, UsageError
from clearclip.large.image import open_raster
from clearclip.scenes import make_scene


@pytest.fixture(scope="module")
def scene():
    return make_scene(3, size=(60, 84)).image


def write(path, pixels, **options):
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **shape, **options) as target:
            target.write(bands)
    return path


def near(found, expected, *, within=1):
    return np.abs(found.astype(int) - expected).max() <= within


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_fewer_bits_in_sixteen_are_as_bright_as_eight(tmp_path, scene, bits, suffix, colours):
    pixels = np.dstack([scene, np.full(scene.shape[:2], 255, np.uint8)])[..., :colours]
    most = np.uint16(2**bits - 1)
    deep = np.rint(pixels / 255 * most).astype(np.uint16)
    if colours == 4:
        deep[..., 3] = 65535
    options = {"photometric": "RGB", "interleave": "pixel"} if (suffix, colours > 1) == ("tif", True) else {}
    path = write(tmp_path / f"a.{suffix}", deep, driver="PNG" if suffix == "png" else "GTiff", **options)
    with pytest.warns(UserWarning, match=f"uint16 values: 0 to {most} was taken .* --range LOW:HIGH"):
        found = load_image(path)
    expected = scene if colours > 1 else scene[..., :1].repeat(3, axis=2)
    assert near(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert near(load_image(path, value_range=(0, int(most))), expected)


def test_all_sixteen_bits_are_no_guess(tmp_path, scene):
    deep = scene.astype(np.uint16) * 257
    path = write(tmp_path / "a.tif", deep, photometric="RGB", interleave="pixel", compress="lzw", predictor=2)
    assert np.array_equal(load_image(path), scene)
    assert np.array_equal(load_image(deep), scene)


def test_planes_of_sixteen_bits_are_refused_as_pillow_misreads_them(tmp_path, scene):
    path = write(tmp_path / "a.tif", scene.astype(np.uint16) * 257, photometric="RGB", interleave="band")
    with pytest.raises(ImageError, match="clearclip large"):
        load_image(path)


def test_sixteen_bit_colours_are_turned_and_keep_their_alpha(tmp_path, scene):
    deep = np.dstack([scene, scene[..., 0]]).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = write(tmp_path / "a.png", deep, driver="PNG").read_bytes()
    chunk = b"eXIf" + exif.tobytes()[6:]
    turned = whole[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk + _crc(chunk) + whole[33:]
    shallow = Image.fromarray(np.dstack([scene, scene[..., 0]]))
    assert np.array_equal(load_image(turned), load_image(shallow.transpose(Image.Transpose.ROTATE_270)))


def _crc(chunk):
    import zlib

    return zlib.crc32(chunk).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (np.linspace(0, 1, 500, dtype=np.float32), (0, 1), ""),
        (np.linspace(-0.02, 1.03, 500, dtype=np.float32), (0, 1), "0 to 1 was taken"),
        (np.linspace(0, 255, 500, dtype=np.float32), (0, 255), "0 to 255 was taken"),
        (np.linspace(0, 260, 500, dtype=np.float32), (0, 255), "0 to 255 was taken"),
        (np.linspace(-1, 1, 501), (-0.96, 0.96), "percentile"),
        (np.linspace(29_000, 30_000, 501).astype(np.uint16), (29_020, 29_980), "percentile"),
        (np.arange(256, dtype=np.uint16), (0, 255), "0 to 255 was taken"),
        (np.arange(256, dtype=np.uint8), (0, 255), ""),
        (np.linspace(0, 90, 501).astype(np.uint8), (0, 255), ""),
        (np.array([False, True]), (0, 1), ""),
        (np.full(9, 40_000, np.uint16), (0, 65535), ""),
        (np.full(9, -5.0), (0, 255), "0 to 255 was taken"),
        (np.array([], np.float32), (0, 1), ""),
    ],
)
def test_the_range_of_values(values, expected, said):
    low, high, guess = find_range(values)
    assert (low, high) == pytest.approx(expected, abs=0.5 if high > 9 else 1e-3)
    assert said in guess if said else guess == ""


def test_declared_bits_are_no_guess():
    assert find_range(np.arange(9, dtype=np.uint16), bits=12) == (0, 4095, "")
    assert find_range(np.arange(9, dtype=np.uint8), bits=4) == (0, 15, "")


def test_two_levels_are_no_fill():
    assert find_range(np.arange(1000, dtype=np.uint16) % 2)[:2] == (0, 1)


def test_values_without_any_finite_distance_are_refused():
    with pytest.raises(ImageError, match="--range"):
        find_range(np.array([-1e308, 1e308, -1.7e308, 1.7e308]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_range_that_was_said_holds_for_photographs_and_rasters(tmp_path, scene, dtype):
    path = write(tmp_path / "a.tif", scene[..., 0].astype(dtype))
    expected = np.rint(((scene[..., 0].astype(float) - 50) * 255 / 100).clip(0, 255))
    assert near(load_image(path, value_range=(50, 150))[..., 0], expected)
    with open_raster(path, value_range=(50, 150)) as raster:
        assert near(raster.read(0, 60)[0][..., 0], expected)


def test_photographs_and_rasters_have_one_rule(tmp_path, scene):
    for name, values in (
        ("twelve", scene[..., 0].astype(np.uint16) * 16),
        ("thermal", scene[..., 0].astype(np.uint16) + 29_000),
        ("beyond", scene[..., 0].astype(np.float32) / 250 - 0.01),
        ("whole", scene[..., 0].astype(np.uint16) * 257),
    ):
        path = write(tmp_path / f"{name}.tif", values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            photograph = load_image(path)
            with open_raster(path) as raster:
                assert np.array_equal(raster.measured().read(0, 60)[0], photograph), name
        assert photograph.std() > 0.8 * scene[..., 0].std(), name


def test_a_range_beyond_eight_bits_warns_for_an_image_of_eight():
    with pytest.warns(UserWarning, match="8 bits was given the range 0 to 4095"):
        load_image(Image.new("RGB", (4, 4)), value_range=(0, 4095))
    levels = np.full((4, 4, 3), 200, np.uint8)
    assert np.array_equal(load_image(levels, value_range=(0, 100)), levels)


@pytest.mark.parametrize("text", ["", "5", "0,200", "1:2:3", "a:b", "5:5", "9:3", "nan:1", "0:inf"])
def test_wrong_ranges_are_refused(text):
    with pytest.raises(UsageError, match="two numbers"):
        parse_range(text)


def test_a_range_is_written_down_and_read_everywhere(scene, tmp_path):
    assert parse_range(" -1:1.5 ") == (-1, 1.5)
    assert parse_range(None) is None
    segmenter = clearclip.load("tiny", device="cpu", value_range=(0, 4095))
    deep = scene.astype(np.uint16) * 16
    assert segmenter.describe(segmenter.method)["range"] == "0 to 4095"
    assert near(segmenter.encode(deep).image, scene)
    with pytest.raises(UsageError, match="smaller first"):
        clearclip.load("tiny", value_range=(3, 3))


def test_the_commands_take_a_range(run, scene, tmp_path):
    deep = tmp_path / "images" / "a.png"
    deep.parent.mkdir()
    Image.fromarray(scene[..., 0].astype(np.uint16) * 16).save(deep)
    asked = ("-l", "sky", "-l", "grass", "--model", "tiny", "--device", "cpu", "--template", "{}")
    told = run("segment", deep, *asked, "-o", tmp_path / "told", "--range", "0:4080")
    assert (told.code, told.err) == (0, "")
    guessed = run("segment", deep, *asked, "-o", tmp_path / "guessed")
    assert "a.png: uint16 values: 0 to 4095 was taken for black to white" in guessed.err
    Image.fromarray(scene[..., 0]).save(tmp_path / "eight.png")
    run("segment", tmp_path / "eight.png", *asked, "-o", tmp_path / "eight")
    maps = [np.asarray(Image.open(tmp_path / name)) for name in ("told/a.png", "guessed/a.png", "eight/eight.png")]
    assert np.array_equal(maps[0], maps[2])
    assert (maps[1] == maps[2]).mean() > 0.98
    refused = run("segment", deep, *asked, "-o", tmp_path / "told", "--range", "0:99")
    assert refused.code == 2
    assert "range" in refused.err
