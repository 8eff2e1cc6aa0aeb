"""Images, and the tars and Parquet files that hold them."""

from __future__ import annotations

import io
import random
import tarfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from clearclip.files.kinds import IMAGE_SUFFIXES
from tests.hostile.cases import Action, Case, target
from tests.hostile.mutate import TEXTS, damage
from tests.hostile.targets.common import ASKED, command, encoded, formatted, picture, wrong_maps

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def write_deep(file: Path, **options: str) -> None:
    """12 bits in 16, in colour."""
    import rasterio

    pixels = np.moveaxis(np.asarray(picture(18), dtype=np.uint16) * 16, 2, 0)
    shape = {"count": 3, "height": 40, "width": 56, "dtype": "uint16"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing coordinates
        with rasterio.open(file, "w", **shape, **options) as written:
            written.write(pixels)


def seed_images(place: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "text"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 99, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    pages = {"save_all": True, "append_images": [picture(33), picture(34)]}
    colour = {"driver": "GTiff", "photometric": "RGB", "interleave": "pixel"}
    for name, options in (("twelve.png", {"driver": "PNG"}), ("twelve.tif", colour)):
        write_deep(place / name, **options)
    grey = Image.fromarray(np.asarray(picture(3).convert("L"), dtype=np.uint16) * 257)
    made = {
        "rgb.png": (picture(1), {}), "palette.png": (picture(2).quantize(16), {"transparency": 3}),
        "deep.png": (grey, {}), "alpha.png": (picture(4).convert("RGBA"), {}),
        "photo.jpg": (picture(5), {"exif": exif}), "cmyk.jpg": (picture(6).convert("CMYK"), {}),
        "progressive.jpg": (picture(7), {"progressive": True}), "photo.webp": (picture(8), {"exif": exif}),
        "lossless.webp": (picture(9), {"lossless": True}), "plain.tif": (picture(10), {}),
        "lzw.tif": (picture(11), {"compression": "tiff_lzw"}), "deflate.tif": (grey, {"compression": "tiff_deflate"}),
        "jpeg.tif": (picture(12), {"compression": "jpeg"}), "photo.gif": (picture(13), {}),
        "float.tif": (Image.fromarray(np.eye(40, 56, dtype="f")), {}), "photo.bmp": (picture(14), {}),
        "photo.ppm": (picture(15), {}), "bits.pgm": (picture(16).convert("L"), {}), "photo.jp2": (picture(17), {}),
        "bits.pbm": (picture(18).convert("1"), {}), "float.pfm": (Image.fromarray(np.eye(40, 56, dtype="f")), {}),
        "photo.dib": (picture(19), {}), "photo.j2k": (picture(20), {}), "photo.avif": (picture(21), {"exif": exif}),
        "photo.tga": (picture(22), {}), "lengths.tga": (picture(23), {"compression": "tga_rle"}),
        "palette.tga": (picture(24).quantize(16), {}), "photo.sgi": (picture(25), {}), "photo.pcx": (picture(26), {}),
        "palette.pcx": (picture(27).quantize(16), {}), "grey.sgi": (picture(28).convert("L"), {}),
        "photo.heic": (picture(29), {"exif": exif}),
        **{f"pages.{suffix}": (picture(30), pages) for suffix in ("tif", "gif", "webp", "apng", "avif", "mpo", "heif")},
        "texts.png": (picture(31), {"pnginfo": texts, "exif": exif, "icc_profile": b"no profile"}),
        "xmp.jpg": (picture(32), {"xmp": XMP, "comment": b"text", "icc_profile": b"no profile"}),
    }  # fmt: skip
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    for name, (image, options) in made.items():
        with suppress(OSError, ValueError):  # a codec that this Pillow lacks
            image.save(place / name, **options)


def check_images(case: Case, code: int) -> str | None:
    if code == 2:
        return "a damaged image ends the whole run"
    if not case.expected["png"]:
        return None
    if not (case.output / "good.png").exists():
        return "the good image was lost"
    if (case.output / "bad.png").exists() == bool(code):
        return f"exit code {code}, but the damaged image's result is{'' if code else ' not'} there"
    return wrong_maps(case.output.glob("*.png"))


@target(seed=seed_images, check=check_images)
def images(case: Case) -> Action:
    """One of two is damaged; the other must come out right whatever becomes of the first."""
    files = sorted(file for file in case.seeds.iterdir() if file.suffix in IMAGE_SUFFIXES)
    file, other = case.rng.choice(files), case.rng.choice(files)
    suffix = file.suffix if case.rng.random() < 0.9 else other.suffix
    case.write(f"bad{suffix}", damage(file.read_bytes(), case.rng, other=other.read_bytes()))
    case.write("good.png", encoded(0))
    formats = case.rng.sample(["png", "preview", "overlay", "npz", "coco", "geojson", "yolo", "cvat"], 2)
    case.expected["png"] = "png" in formats
    return command("segment", case.inputs, *ASKED, "-o", case.output, *formatted(formats), "--max-pixels", "1000000")


NAMES = ("a.png", "a.seg.png", "b/c.jpg", "é.webp", "a.json", "d.1.png", "d.2.png", "@eaDir/a.png", "e.psd")


def seed_containers(place: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    with tarfile.open(place / "images.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for index, name in enumerate((*NAMES, "b/long" + "x" * 120 + ".png")):
            data = b"{}" if name.endswith("json") else encoded(index, "JPEG" if name.endswith("jpg") else "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    rows = [*({"bytes": encoded(index), "path": f"{index}.png"} for index in range(3)), None]
    table = pyarrow.table({"image": rows, "label": [1] * len(rows)})
    parquet.write_table(table, place / "rows.parquet", row_group_size=2)


def check_containers(case: Case, code: int) -> str | None:
    return wrong_maps(case.output.glob("*.png"))


@target(seed=seed_containers, check=check_containers)
def tars(case: Case) -> Action:
    data = (case.seeds / "images.tar").read_bytes()
    data = _damage_header(data, case.rng) if case.rng.random() < 0.5 else damage(data, case.rng)
    return command("segment", case.write("images.tar", data), *ASKED, "-o", case.output)


def _damage_header(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a member's header and mend its checksum, so that it counts."""
    changed = bytearray(data)
    at = rng.choice([at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"])
    offset, length = rng.choice([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155)])
    text = rng.choice((*TEXTS, "77777777777", "00000000000", "-1", "\x80" + "\xff" * 11, "S", "2", "1", "K", "x", "g"))
    changed[at + offset : at + offset + length] = text.encode("utf-8", "surrogatepass").ljust(155, b"\0")[:length]
    changed[at + 148 : at + 156] = b" " * 8
    changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


@target(seed=seed_containers, check=check_containers)
def parquets(case: Case) -> Action:
    file = case.write("rows.parquet", damage((case.seeds / "rows.parquet").read_bytes(), case.rng))
    return command("segment", file, *ASKED, "-o", case.output)
