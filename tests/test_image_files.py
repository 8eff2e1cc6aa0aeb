"""Image files: every type and suffix, how they want to be shown, their pages, and damage beside their pixels."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from clearclip import ImageError, load_image
from clearclip.encode.images import _decoders, read_levels
from clearclip.files.kinds import IMAGE_FORMATS

EXACT = ("PNG", "TIFF", "BMP", "DIB", "PPM", "SGI", "PCX", "TGA")
ORIENTATION = 0x0112
COLOURS = np.array([[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(0, 0, 0), (250, 250, 250), (250, 250, 0)]], np.uint8)
BLOCKS = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))


def encoded(kind, pixels=BLOCKS, **options):
    if kind in ("JPEG", "MPO", "WEBP", "AVIF"):
        options = {"quality": 95, **options}
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, kind, **options)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow writes no {kind} ({error})")
    return buffer.getvalue()


def near(found, wanted, kind):
    return found.shape == wanted.shape and np.abs(found.astype(int) - wanted).mean() < (0.01 if kind in EXACT else 12)


def upright(orientation):
    """The blocks as a viewer shows them, by the numbers of TIFF 6.0."""
    columns = BLOCKS[:, ::-1] if orientation in (2, 3, 7, 8) else BLOCKS
    both = columns[::-1] if orientation in (3, 4, 6, 7) else columns
    return (
        both
        if orientation < 5
        else {5: BLOCKS, 6: BLOCKS[::-1], 7: BLOCKS[::-1, ::-1], 8: BLOCKS[:, ::-1]}[orientation].swapaxes(0, 1)
    )


def exif(orientation):
    table = Image.Exif()
    table[ORIENTATION], table[0x010F] = orientation, "Maker"
    return table


@pytest.mark.parametrize("kind", [kind for kind in IMAGE_FORMATS if kind != "HEIF"])
def test_every_type_is_read_by_each_of_its_suffixes(tmp_path, kind):
    data = encoded(kind)
    for suffix in IMAGE_FORMATS[kind]:
        file = tmp_path / f"a{suffix.upper()}"
        file.write_bytes(data)
        pixels, note = read_levels(file)
        assert near(pixels, BLOCKS, kind)
        assert note == ""
    known = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ == kind}
    assert known - set(IMAGE_FORMATS[kind]) <= {".rgb", ".rgba"}  # also names of raw pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_images_are_turned_as_their_exif_says(kind, orientation):
    assert near(load_image(encoded(kind, exif=exif(orientation))), upright(orientation), kind)


def test_an_orientation_that_only_xmp_has_is_applied():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet.decode())
    for kind, options in (("JPEG", {"xmp": packet}), ("WEBP", {"xmp": packet}), ("PNG", {"pnginfo": text})):
        assert near(load_image(encoded(kind, **options)), upright(6), kind)


@pytest.mark.parametrize("flags", [0x00, 0x10, 0x20, 0x30])
def test_a_targas_corner_is_where_it_says(flags):
    """Bit 4: right to left; bit 5: top to bottom."""
    rows = BLOCKS if flags & 0x20 else BLOCKS[::-1]
    stored = rows[:, ::-1] if flags & 0x10 else rows
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 48, 32, 24, flags)
    assert np.array_equal(load_image(head + stored[..., ::-1].tobytes()), BLOCKS)


def pages(count, **options):
    return {"save_all": True, "append_images": [Image.fromarray(BLOCKS[::-1])] * (count - 1), **options}


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_of_many_pages_the_first_is_taken_and_the_others_are_named(kind):
    data = encoded(kind, **pages(3))
    pixels, note = read_levels(data)
    assert near(pixels, BLOCKS, kind)
    assert note in ("it has 3 pages, the first is taken", "it has 2 pages, the first is taken")  # equal ones are one
    with pytest.warns(UserWarning, match=r"the image: it has \d pages, the first is taken"):
        load_image(data)


def test_previews_overviews_and_masks_are_no_pages():
    assert read_levels(encoded("MPO", **pages(2)))[1] == ""
    small = Image.fromarray(BLOCKS[::2, ::2])
    for kind in (1, 4):
        small.encoderinfo = {"tiffinfo": {254: kind}}
        assert read_levels(encoded("TIFF", save_all=True, append_images=[small]))[1] == ""


def test_a_damaged_second_page_does_not_keep_the_first():
    data = bytearray(encoded("TIFF", **pages(2)))
    first = struct.unpack_from("<I", data, 4)[0]
    following = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    data[following : following + 4] = struct.pack("<I", len(data) + 999)
    pixels, note = read_levels(bytes(data))
    assert np.array_equal(pixels, BLOCKS)
    assert note == "its further pages cannot be read, the first is taken"


def chunk(kind, data, *, checksum=None):
    return struct.pack(">I", len(data)) + kind + data + (checksum or struct.pack(">I", zlib.crc32(kind + data)))


WRONG = b"\1\2\3\4"
BESIDE = {
    "a wrong checksum": chunk(b"tEXt", b"a\0b", checksum=WRONG),
    "no zlib": chunk(b"zTXt", b"a\0\0not compressed"),
    "a short chunk": chunk(b"pHYs", b"\0"),
    "no profile": chunk(b"iCCP", b"x"),
    "half an animation": chunk(b"acTL", b"\0"),
    "too much text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 23))),
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", BESIDE)
def test_damage_beside_a_pngs_pixels_costs_neither_pixels_nor_orientation(kind, where):
    data = encoded("PNG", exif=exif(6))
    at = data.find(b"IDAT" if where == "before" else b"IEND") - 4
    assert np.array_equal(load_image(data[:at] + BESIDE[kind] + data[at:]), upright(6))


def test_damage_to_a_jpegs_previews_and_profiles_costs_nothing():
    for segment in (b"MPF\0II*\0\xff\xff\xff\xff", b"MPF\0", b"ICC_PROFILE\0\1", b"MPF\0MM\0*\0\0\0\x08\xff\xff"):
        data = encoded("JPEG", exif=exif(6))
        extra = b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment
        at = data.find(b"\xff\xdb")
        assert near(load_image(data[:at] + extra + data[at:]), upright(6), "JPEG")


def test_damage_to_an_avifs_exif_costs_no_pixels():
    data = encoded("AVIF", exif=exif(1))
    at = data.find(b"MM\0*") + 8
    refused = 0
    for value in range(0, 256, 5):
        damaged = data[:at] + bytes([value]) * 12 + data[at + 12 :]
        assert near(load_image(damaged), BLOCKS, "AVIF")
        try:
            with Image.open(io.BytesIO(damaged)) as opened:
                opened.load()
        except Exception:
            refused += 1
    assert refused, "none of these needs the second look"


def test_a_png_whose_pixels_were_damaged_is_refused_though_pillow_reads_it():
    noise = np.random.default_rng(0).integers(0, 30, (90, 90, 3), dtype=np.uint8)
    data, taken = encoded("PNG", noise), 0
    for zeros in range(17, 4000, 97):
        damaged = data[:-zeros] + bytes(zeros)
        with pytest.raises(ImageError, match=r"damaged or cut: .* part IDAT at byte \d+ is wrong"):
            load_image(damaged)
        try:
            with Image.open(io.BytesIO(damaged)) as opened:
                opened.load()
            taken += 1
        except (OSError, SyntaxError):
            pass
    assert taken, "Pillow takes none of these"
    palette = io.BytesIO()
    Image.fromarray(noise).quantize(8).save(palette, "PNG")
    at = palette.getvalue().find(b"PLTE") + 5
    with pytest.raises(ImageError, match="PLTE"):
        load_image(palette.getvalue()[:at] + b"\x99" + palette.getvalue()[at + 1 :])


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_without_its_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    _decoders.cache_clear()
    try:
        with pytest.raises(ImageError, match="python -m pip install pillow-heif"):
            load_image(HEIC)
    finally:
        _decoders.cache_clear()


def test_heic_goes_to_the_decoder_of_the_extra(monkeypatch):
    class Standin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (48, 32), "RGB"

        def load(self):
            self.im = Image.fromarray(BLOCKS).im

    class Library:
        @staticmethod
        def register_heif_opener():
            monkeypatch.setitem(Image.OPEN, "HEIF", (Standin, lambda head: head[4:12] == b"ftypheic"))

    monkeypatch.setitem(sys.modules, "pillow_heif", Library)
    _decoders.cache_clear()
    try:
        assert np.array_equal(load_image(HEIC), BLOCKS)
    finally:
        _decoders.cache_clear()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_read_and_turned_once(orientation):
    library = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    library.register_heif_opener()
    data = encoded("HEIF", exif=exif(orientation).tobytes(), quality=95)  # of bytes it makes the container's own turn
    assert near(load_image(data), upright(orientation), "HEIF")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08" + bytes(99), "compressed by gzip: unpack it first"),
        (b"PK\3\4" + bytes(99), "a ZIP archive: unpack it first"),
        (bytes(257) + b"ustar" + bytes(250), r"a tar: give it the suffix \.tar"),
        (b"%PDF-1.7", "a PDF: save its pages"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"II*\0\xff\xff\xff\xff", "a TIFF that is damaged, or of a kind .* try `clearclip large`"),
        (b"\0\0\0\x18ftypavif" + bytes(99), "an AVIF that is damaged"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, content, said):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"a.jpg cannot be read: it is .*{said}"):
        load_image(file)
