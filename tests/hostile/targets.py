"""What the fuzzer feeds: for each kind of input valid ones, damage to them, the command that reads them, and a check."""

# ruff: noqa: E501
from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.hostile.fuzz import Action, Case, Target, command
from tests.hostile.mutate import FLOATS, NUMBERS, TEXTS, damage, damage_json

WORDS = ("sky", "grass", "tree", "car")
ASKED = [part for word in WORDS for part in ("-l", word)] + ["--model", "tiny", "--device", "cpu"]
PLAIN = [*ASKED, "--template", "{}"]


def warm_up() -> None:
    """Import what the cases need, so that none pays for it; nothing is computed, as threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    for name in (
        "clearclip.cli", "clearclip.batch", "clearclip.segmenter", "clearclip.large", "clearclip.video", "av",
        "clearclip.benchmarks", "clearclip.formats", "clearclip.backbones.open_clip", "clearclip.studio.export",
        "clearclip.scenes.demo", "rasterio", "rasterio.features", "rasterio.warp", "pyarrow.parquet", "torch.nn",
        "shapely", "cv2", "pycocotools.mask", "rich.console", "rich.table",
    ):  # fmt: skip
        with suppress(ImportError):
            importlib.import_module(name)


def finish(*arguments: str | Path) -> None:
    """Run a command that must succeed."""
    try:
        command(*arguments)()
    except SystemExit as ended:
        if ended.code:
            raise


def picture(seed: int, height: int = 40, width: int = 56) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, kind, **options)
    return stream.getvalue()


def wrong_maps(files: Iterator[Path] | list[Path], *, labels: int = len(WORDS)) -> str | None:
    """What is wrong with label maps: unreadable, or values that are no label."""
    for file in files:
        try:
            with Image.open(file) as image:
                most = int(np.asarray(image).max())
        except (OSError, SyntaxError, ValueError) as error:
            return f"result {file.name} cannot be read ({error})"
        if most >= labels:
            return f"result {file.name} has the value {most}, there are {labels} labels"
    return None


def maps_of(folder: Path) -> dict[str, bytes]:
    """Pixels by name of all label maps in a folder."""
    found = {}
    for file in sorted(folder.glob("*.png")):
        with Image.open(file) as image:
            found[file.name] = np.asarray(image).tobytes()
    return found


def differing(case: Case, expected: Path) -> str | None:
    """Whether label maps differ from those of an undisturbed run."""
    wanted, found = maps_of(expected), maps_of(case.output)
    names = [name for name, pixels in wanted.items() if found.get(name) != pixels]
    return f"success, but {', '.join(names)} differ from those of an undisturbed run" if names else None


# Images: one of two is damaged; the other must come out right whatever becomes of the first.


def seed_images(place: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "text"
    grey = Image.fromarray(np.asarray(picture(3).convert("L"), dtype=np.uint16) * 257)
    made = {
        "rgb.png": (picture(1), {}), "palette.png": (picture(2).quantize(16), {"transparency": 3}),
        "deep.png": (grey, {}), "alpha.png": (picture(4).convert("RGBA"), {}),
        "photo.jpg": (picture(5), {"exif": exif}), "cmyk.jpg": (picture(6).convert("CMYK"), {}),
        "progressive.jpg": (picture(7), {"progressive": True}), "photo.webp": (picture(8), {"exif": exif}),
        "lossless.webp": (picture(9), {"lossless": True}), "plain.tif": (picture(10), {}),
        "lzw.tif": (picture(11), {"compression": "tiff_lzw"}), "deflate.tif": (grey, {"compression": "tiff_deflate"}),
        "jpeg.tif": (picture(12), {"compression": "jpeg"}), "float.tif": (Image.fromarray(np.eye(40, 56, dtype="f")), {}),
        "photo.gif": (picture(13), {}), "photo.bmp": (picture(14), {}), "photo.ppm": (picture(15), {}),
        "bits.pgm": (picture(16).convert("L"), {}), "photo.jp2": (picture(17), {}),
    }  # fmt: skip
    for name, (image, options) in made.items():
        with suppress(OSError):  # a codec that this Pillow lacks
            image.save(place / name, **options)
    picture(0).save(place / "good.PNG")


def prepare_images(case: Case) -> Action:
    files = sorted(file for file in case.seeds.glob("*.???*") if file.suffix.lower() in (
        ".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", ".ppm", ".pgm", ".jp2") and file.name != "good.PNG")  # fmt: skip
    file, other = case.rng.choice(files), case.rng.choice(files)
    suffix = file.suffix if case.rng.random() < 0.9 else other.suffix
    case.write(f"bad{suffix}", damage(file.read_bytes(), case.rng, other=other.read_bytes()))
    case.write("good.png", (case.seeds / "good.PNG").read_bytes())
    formats = case.rng.sample(["png", "preview", "overlay", "npz", "coco", "geojson", "yolo", "cvat"], 2)
    listed = [part for name in formats for part in ("--format", name)]
    case.expected["png"] = "png" in formats
    return command("segment", case.inputs, *PLAIN, "-o", case.output, *listed, "--max-pixels", "1000000")


def check_images(case: Case, code: int) -> str | None:
    if code == 2:
        return "a damaged image ends the whole run"
    if not case.expected["png"]:
        return None
    if not (case.output / "good.png").exists():
        return "the good image was lost"
    if (case.output / "bad.png").exists() == bool(code):
        return f"exit code {code}, but the damaged image's result is{'' if code else ' not'} there"
    return wrong_maps(list(case.output.glob("*.png")))


# Tars and Parquet files.


def seed_containers(place: Path) -> None:
    with tarfile.open(place / "images.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for index, name in enumerate(("a.png", "b/c.jpg", "b/long" + "x" * 120 + ".png", "é.webp", "a.json")):
            data = b"{}" if name.endswith("json") else encoded(index, "JPEG" if name.endswith("jpg") else "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        rows = [{"bytes": encoded(index), "path": f"{index}.png"} for index in range(3)] + [None]
        table = pyarrow.table({"image": rows, "label": [1] * len(rows)})
        parquet.write_table(table, place / "rows.parquet", row_group_size=2)


def prepare_tars(case: Case) -> Action:
    data = bytearray((case.seeds / "images.tar").read_bytes())
    if case.rng.random() < 0.5:
        _damage_header(data, case.rng)
    else:
        data = bytearray(damage(bytes(data), case.rng))
    file = case.write("images.tar", bytes(data))
    return command("segment", file, *PLAIN, "-o", case.output)


def _damage_header(data: bytearray, rng: random.Random) -> None:
    """Change a field of a member's header and mend its checksum, so that it counts."""
    starts = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(starts)
    fields = {0: 100, 124: 12, 156: 1, 157: 100, 345: 155}
    offset = rng.choice(list(fields))
    text = rng.choice((*TEXTS, "77777777777", "00000000000", "-1", "\x80" + "\xff" * 11, "S", "2", "1", "K", "x", "g"))
    data[at + offset : at + offset + fields[offset]] = text.encode("utf-8", "surrogatepass").ljust(155, b"\0")[
        : fields[offset]
    ]
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def prepare_parquet(case: Case) -> Action:
    file = case.write("rows.parquet", damage((case.seeds / "rows.parquet").read_bytes(), case.rng))
    return command("segment", file, *PLAIN, "-o", case.output)


def check_container(case: Case, code: int) -> str | None:
    return wrong_maps(list(case.output.glob("*.png")))


# Rasters.


def seed_rasters(place: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.moveaxis(np.asarray(picture(1, 70, 90)), 2, 0)
    place_of = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 10, 10)}
    for name, array, options in (
        ("rgb.tif", pixels, place_of),
        ("tiled.tif", pixels, {**place_of, "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}),
        ("deep.tif", pixels[:1].astype("float32") * 10, {**place_of, "nodata": -9999.0}),
        ("ints.tif", pixels.astype("uint16") * 40, {"nodata": 0, "compress": "lzw"}),
        ("plain.png", pixels, {}),
    ):
        driver = "PNG" if name.endswith("png") else "GTiff"
        shape = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype.name}
        with rasterio.open(place / name, "w", driver=driver, **shape, **options) as written:
            written.write(array)


XML = (
    '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    "<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>",
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{source}/${{z}}</ServerUrl></Service><DataWindow><SizeX>64</SizeX>'
    "<SizeY>64</SizeY></DataWindow><Projection>EPSG:4326</Projection><BandsCount>3</BandsCount></GDAL_WMS>",
    '<WCS_GDAL><ServiceURL>{source}?</ServiceURL><CoverageName>x</CoverageName></WCS_GDAL>',
    '<GDALWMTS><GetCapabilitiesUrl>{source}</GetCapabilitiesUrl><Layer>x</Layer></GDALWMTS>',
)  # fmt: skip


def prepare_rasters(case: Case) -> Action:
    rng = case.rng
    if rng.random() < 0.15:
        address = f"http://127.0.0.1:{case.port}/x"
        source = rng.choice((address, f"/vsicurl/{address}.tif", "/etc/passwd", f"{case.inputs}/x.raw"))
        data = rng.choice(XML).format(source=source).encode()
        data = data if rng.random() < 0.7 else damage(data, rng)
        file = case.write(rng.choice(("r.tif", "r.vrt", "r.xml", "r.png")), data)
    else:
        files = [*sorted(case.seeds.glob("*.tif")), case.seeds / "plain.png"]
        chosen = rng.choice(files)
        file = case.write(f"r{chosen.suffix}", damage(chosen.read_bytes(), rng, other=rng.choice(files).read_bytes()))
    case.output.mkdir()
    more: list[Any] = []
    for option in (["--scores", case.output / "s.tif"], ["--polygons", case.output / "p.geojson"], ["--bands", "1"],
                   ["--scale", "0.5"], ["--range", "0,255"], ["--threshold", "0.5", "--background", "none"]):  # fmt: skip
        more += option if rng.random() < 0.25 else []
    return command("large", file, *PLAIN, "-o", case.output / "l.tif", *more)


def check_rasters(case: Case, code: int) -> str | None:
    import rasterio

    files = sorted(file.name for file in case.output.iterdir())
    if code:
        left = [name for name in files if not name.endswith((".unfinished", ".aux.xml"))]
        return f"exit code {code}, but {left} stand there" if left else None
    try:
        with rasterio.open(case.output / "l.tif") as made:
            array = made.read(1)
            valid = array[array != made.nodata] if made.nodata is not None else array
    except (OSError, rasterio.errors.RasterioError) as error:
        return f"the result cannot be read ({error})"
    return "a pixel's value is no label" if valid.size and int(valid.max()) > len(WORDS) else None


def prepare_bands(case: Case) -> Action:
    """An interrupted run's folder, damaged; bytes that are damaged must not change the result."""
    shutil.copytree(case.seeds / "left", case.output)
    _damage_files(case, case.output, whole=False)
    return command(
        "large", case.seeds / "rgb.tif", *PLAIN, "-o", case.output / "l.tif", "--scores", case.output / "s.tif"
    )


def seed_bands(place: Path) -> None:
    from clearclip.bands import UnfinishedBands

    seed_rasters(place)
    whole, left = place / "whole", place / "left"
    whole.mkdir(), left.mkdir()
    finish("large", place / "rgb.tif", *PLAIN, "-o", whole / "l.tif", "--scores", whole / "s.tif")
    write, count = UnfinishedBands.write, iter(range(10))

    def write_then_end(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        if next(count) == 1:
            raise KeyboardInterrupt

    UnfinishedBands.write = write_then_end  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        finish("large", place / "rgb.tif", *PLAIN, "-o", left / "l.tif", "--scores", left / "s.tif")
    if not any(left.iterdir()):
        raise AssertionError("nothing unfinished was left")


def check_bands(case: Case, code: int) -> str | None:
    import rasterio

    if code:
        return None
    for name in ("l.tif", "s.tif"):
        with rasterio.open(case.output / name) as made, rasterio.open(case.seeds / "whole" / name) as wanted:
            if not np.array_equal(made.read(), wanted.read()):
                return f"success, but {name} differs from that of an undisturbed run"
    return None


# Videos.


def seed_videos(place: Path) -> None:
    import av

    for name, codec, pixels in (
        ("a.mkv", "ffv1", "bgr0"), ("b.mp4", "mpeg4", "yuv420p"), ("c.avi", "mjpeg", "yuvj420p"), ("d.mov", "libx264", "yuv420p"),
    ):  # fmt: skip
        with suppress(ValueError), av.open(str(place / name), "w", container_options={}) as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 40, 56, pixels
            for index in range(5):
                frame = av.VideoFrame.from_image(picture(index))
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    shutil.copytree(
        place, place / "kept", ignore=shutil.ignore_patterns("cache", "tmp", "said.txt", "noted.txt", "kept")
    )
    video, out = place / "kept" / "a.mkv", place / "masked"
    finish("video", video, *PLAIN, "-o", out / "a.mp4", "--masks")
    (out / "a.mp4").unlink()


def prepare_videos(case: Case) -> Action:
    files = sorted(file for file in case.seeds.iterdir() if file.suffix in (".mkv", ".mp4", ".avi", ".mov"))
    chosen = case.rng.choice(files)
    data = damage(chosen.read_bytes(), case.rng, other=case.rng.choice(files).read_bytes())
    if case.rng.random() < 0.05:
        data = f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{case.port}/x.ts\n".encode()
    if case.rng.random() < 0.05:
        data = f"ffconcat version 1.0\nfile 'http://127.0.0.1:{case.port}/x.mp4'\n".encode()
    file = case.write(f"v{chosen.suffix}", data)
    masks = ["--masks"] if case.rng.random() < 0.3 else []
    return command("video", file, *PLAIN, "-o", case.output / "o.mp4", *masks)


def check_videos(case: Case, code: int) -> str | None:
    import av

    made = case.output / "o.mp4"
    if code == 0 or made.exists():
        try:
            with av.open(str(made)) as container:
                if not any(True for _ in container.decode(video=0)):
                    return "the result has no frame"
        except (OSError, ValueError) as error:
            return f"the result cannot be read ({error})"
    return wrong_maps(list(case.output.glob("*-masks/*.png")))


def prepare_masks(case: Case) -> Action:
    """Label maps that an interrupted video run left, damaged: what is wrong with them is made again, or refused."""
    shutil.copytree(case.seeds / "masked", case.output)
    _damage_files(case, case.output, whole=True)
    return command("video", case.seeds / "kept" / "a.mkv", *PLAIN, "-o", case.output / "a.mp4", "--masks")


def check_masks(case: Case, code: int) -> str | None:
    if code:
        return None
    wanted, found = (maps_of(folder / "a-masks") for folder in (case.seeds / "masked", case.output))
    return (
        None if all(found.get(name) == pixels for name, pixels in wanted.items()) else "success, but label maps differ"
    )


# Output folders of `segment`: the ledger's bytes and tables, and the files beside it.


def seed_ledgers(place: Path) -> None:
    for index in range(3):
        picture(index).save(place / f"{index}.PNG")
    (place / "source").mkdir()
    for index in range(3):
        (place / f"{index}.PNG").rename(place / "source" / f"{index}.png")
    for name, formats in (("plain", ("png", "preview")), ("many", ("png", "coco", "yolo", "geojson"))):
        listed = [part for kind in formats for part in ("--format", kind)]
        finish("segment", place / "source", *PLAIN, "-o", place / name, *listed)


def prepare_ledgers(case: Case) -> Action:
    kind = case.rng.choice(("plain", "many"))
    case.expected["kind"] = kind
    shutil.copytree(case.seeds / kind, case.output)
    case.write("secret.txt", "it is not the product's")
    ledgers = [file for file in case.output.rglob("*.sqlite*") if file.is_file()]
    chosen = case.rng.random()
    if chosen < 0.4 and ledgers:
        file = case.rng.choice(ledgers)
        file.write_bytes(damage(file.read_bytes(), case.rng))
    elif chosen < 0.75 and ledgers:
        for _ in range(case.rng.choice((1, 1, 3))):
            _damage_table(ledgers[0], case.rng)
    else:
        _damage_files(case, case.output, whole=True)
    if case.rng.random() < 0.1:
        (case.output / f"{ledgers[0].name}{case.rng.choice(('-wal', '-shm', '-journal'))}").write_bytes(
            damage(ledgers[0].read_bytes(), case.rng)[:8192]
        )
    formats = {"plain": ("png", "preview"), "many": ("png", "coco", "yolo", "geojson")}[kind]
    listed = [part for name in formats for part in ("--format", name)]
    more = ["--overwrite"] if case.rng.random() < 0.15 else []
    return command("segment", case.seeds / "source", *PLAIN, "-o", case.output, *listed, *more)


def _damage_table(file: Path, rng: random.Random) -> None:
    """One change by SQL: of cells, rows, columns, tables, or what SQLite itself says of the file."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice(tables)
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        column, other = rng.choice(columns), rng.choice(columns)
        cell = rng.choice((None, 2**63 - 1, -1, *FLOATS[:5], b"\xff\0", b"", *TEXTS[:40], "[]", "{}", '{"a":1}'))
        row = f'rowid IN (SELECT rowid FROM "{table}" ORDER BY rowid LIMIT 1 OFFSET {rng.randrange(3)})'
        if isinstance(cell, str):
            cell = cell.encode("utf-8", "replace").decode()
        changes: list[tuple[str, tuple[Any, ...]]] = [
            (f'UPDATE "{table}" SET "{column}" = ? WHERE {row}', (cell,)),
            (f'UPDATE "{table}" SET "{column}" = ?', (cell,)),
            (f'UPDATE "{table}" SET "{column}" = "{other}"', ()),
            (f'UPDATE OR IGNORE "{table}" SET "{column}" = CAST("{column}" AS BLOB)', ()),
            (f'UPDATE OR IGNORE "{table}" SET "{column}" = (SELECT "{column}" FROM "{table}" LIMIT 1)', ()),
            (f'UPDATE "{table}" SET "{column}" = substr("{column}", 1, length("{column}") / 2) WHERE {row}', ()),
            (f'DELETE FROM "{table}" WHERE {row}', ()),
            (f'DELETE FROM "{table}"', ()),
            (f'DROP TABLE "{table}"', ()),
            (f'ALTER TABLE "{table}" DROP COLUMN "{column}"', ()),
            (f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "else"', ()),
            (f'ALTER TABLE "{table}" ADD COLUMN more TEXT', ()),
            (f"PRAGMA user_version = {rng.choice((-1, 0, 2, 2**31 - 1))}", ()),
            (f'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END', ()),
        ]
        connection.execute(*rng.choice(changes))


def _damage_files(case: Case, folder: Path, *, whole: bool) -> None:
    """Damage some files of a folder; with `whole` they may also be gone, another's, or no files any more."""
    rng = case.rng
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in rng.sample(files, min(len(files), rng.choice((1, 1, 2, 3)))):
        kind, other = rng.randrange(10 if whole else 5), rng.choice(files)
        if not file.is_file() or not other.is_file() or other.is_symlink():
            continue
        if kind < 4:
            data = file.read_bytes()
            try:
                document = json.loads(data) if kind < 2 else None
            except ValueError:
                document = None
            text = None if document is None else damage_json(document, rng)
            file.write_bytes(damage(data, rng) if text is None else text.encode("utf-8", "surrogatepass"))
        elif kind == 4:
            file.write_bytes(b"")
        elif kind == 5:
            file.unlink()
        elif kind == 6:
            file.write_bytes(other.read_bytes())
        elif kind == 7:
            file.unlink()
            file.symlink_to(case.inputs / "secret.txt")
        elif kind == 8:
            file.unlink()
            file.mkdir()
        else:
            file.unlink()
            os.mkfifo(file)


def check_ledgers(case: Case, code: int) -> str | None:
    return None if code else differing(case, case.seeds / case.expected["kind"])


# Label files.


def seed_labels(place: Path) -> None:
    (place / "labels.txt").write_text(
        "# what there is\nsky @#87ceeb\nperson=man|woman|child\ngrass\ntree=bush @#00ff00\n"
    )


def prepare_labels(case: Case) -> Action:
    rng = case.rng
    text = (case.seeds / "labels.txt").read_bytes()
    kind = rng.randrange(8)
    if kind < 4:
        data = damage(text, rng, other=b"|=@#\xff\xfe\0\x85\xe2\x80\xa8" * 20)
    elif kind == 4:
        data = text.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037")))
    elif kind == 5:
        data = "\n".join(rng.choice(TEXTS) for _ in range(rng.randrange(1, 12))).encode("utf-8", "surrogatepass")
    elif kind == 6:
        count = rng.choice((255, 256, 257, 1000, 70_000, 300_000))
        data = "\n".join(f"label {index}" for index in range(count)).encode()
    else:
        length = rng.choice((1000, 100_000, 5_000_000))
        data = rng.choice((b"a" * length, b"a=" + b"b|" * (length // 2) + b"c", b"a b " * (length // 4), b"#" * length))
    file = case.write("labels.txt", data)
    photo = case.write("p.png", encoded(1))
    options = ["--model", "tiny", "--device", "cpu", "--template", "{}", "-o", case.output]
    return command("segment", photo, "--labels", file, *options)


def check_labels(case: Case, code: int) -> str | None:
    if code:
        return None
    legend = json.loads((case.output / "labels.json").read_text(encoding="utf-8"))
    return wrong_maps([case.output / "p.png"], labels=len(legend.get("labels", legend)))


# Command lines: every command and option that there is, with values that nobody means.


def seed_commands(place: Path) -> None:
    seed_images(place)
    seed_videos(place)
    with suppress(ImportError):
        seed_rasters(place)


UNHURRIED = ("app", "reproduce")  # a server that stays, and hours of work
WORDY = (*TEXTS[:40], "tiny", "clearclip", "png", "cpu", "meta", "cuda:99", "mps", "privateuseone", "float16", "paper",
         "clearclip[residual=beta:1e999]", "gem[depth=99999999999999999999]", "vanilla[attention=qq+" + "kk+" * 500 + "vv]",
         "clearclip[alpha=nan]", "scenes", "1/4", "0/0", "9" * 5000 + "/1", "1,2,3", "0,0", "nan,nan", "a.mp4",
         "local-dir:/", "local-dir:", "hf-hub:", "ViT-B-16/nothing", "nobody/nothing", "/proc/self/mem", "/dev/null")  # fmt: skip


def prepare_commands(case: Case) -> Action:
    import click
    import typer.main

    from clearclip.cli import app

    rng = case.rng
    photo, video, raster = (case.write(name, (case.seeds / source).read_bytes()) for name, source in (
        ("p.png", "rgb.png"), ("v.mkv", "a.mkv"), ("r.tif", "rgb.tif")))  # fmt: skip
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = rng.choice([known for known in commands if known not in UNHURRIED])
    usual: dict[str, list[Any]] = {
        "segment": [photo, *PLAIN, "-o", case.output],
        "large": [raster, *PLAIN, "-o", case.output / "l.tif"],
        "video": [video, *PLAIN, "-o", case.output / "o.mp4"],
        "compare": [photo, *PLAIN, "-o", case.output],
        "inspect": [photo, "--model", "tiny", "--device", "cpu", "-o", case.output],
        "evaluate": ["scenes", "--limit", "1", "--model", "tiny", "--template", "{}", "-o", case.output],
        "results": [case.inputs],
        "demo": ["--limit", "1", "--method", "clearclip", "-o", case.output],
    }
    line: list[Any] = usual.get(name, []) if rng.random() < 0.9 else []
    for _ in range(rng.choice((1, 1, 2, 3))):
        options = [one for one in commands[name].params if isinstance(one, click.Option) and one.name != "overwrite"]
        if rng.random() < 0.1 or not options:
            line = [*line, rng.choice(WORDY)]
            continue
        option = rng.choice(options)
        line = [*line, rng.choice(option.opts)]
        if not option.is_flag:
            line.append(_value_of(option, case))
    arguments = [str(part).replace("\0", "") for part in line]  # no system lets a zero byte through
    return command(name, *(part.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") if "\ud800" not in part
                           else part.replace("\ud800", "\udcff") for part in arguments))  # fmt: skip


def _value_of(option: Any, case: Case) -> str:
    rng, kind = case.rng, option.type.name
    if option.name in ("limit", "worst", "workers", "batch_size", "every"):  # larger ones are more work, and meant
        return rng.choice(("-1", "0", "1", "2", "", "x", "1.5"))
    if option.name == "engine":
        return rng.choice(("local", "", "rays"))
    if kind.startswith(("integer", "float")) or rng.random() < 0.2:
        return str(rng.choice((*NUMBERS[:-1], *FLOATS, "1e9", "0x10", "1_000", "٣", "", "-0", "1e-9", "0.5")))
    if kind in ("path", "file", "directory") or option.name in ("output", "data", "labels", "scores", "polygons"):
        places = (case.inputs / "p.png", case.inputs, case.output / "x" / "y", case.folder / "tmp", case.inputs / "no")
        return str(rng.choice((*places, case.output / ("x" * 300), case.output / "é\n.tif", "")))
    return rng.choice(WORDY)


def check_commands(case: Case, code: int) -> str | None:
    return wrong_maps(list(case.output.glob("p.png")), labels=255) if case.output.is_dir() and not code else None


# Models: the embedded one's configuration, tokenizer and weights.


def seed_models(place: Path) -> None:
    from clearclip.checkpoints import TINY_FOLDER

    shutil.copytree(TINY_FOLDER, place / "model")
    (place / "p.png").write_bytes(encoded(1))


def prepare_models(case: Case) -> Action:
    rng, folder = case.rng, case.inputs / "model"
    shutil.copytree(case.seeds / "model", folder)
    names = ["open_clip_config.json", "tokenizer_config.json", "tokenizer.json", "open_clip_model.safetensors"]
    name = rng.choice((*names, names[0], names[3], "code"))
    if name == "code":
        (folder / "evil.py").write_text("print('run'); open('/tmp/clearclip-fuzz-was-here', 'w')\nclass T: pass\n")
        for which in ("tokenizer_config.json", "config.json", "processor_config.json", "open_clip_config.json"):
            file = folder / which
            document = json.loads(file.read_text()) if file.exists() else {"model_type": "clip"}
            auto = {key: ["evil.T", "evil.T"] for key in ("AutoTokenizer", "AutoModel", "AutoConfig", "AutoProcessor")}
            document.update(
                {"auto_map": auto, "trust_remote_code": True, "tokenizer_class": "T", "custom_pipelines": {}}
            )
            if "model_cfg" in document:
                document["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {
                    "trust_remote_code": True,
                    "use_fast": rng.random() < 0.5,
                }
            if rng.random() < 0.6:
                file.write_text(json.dumps(document))
    elif name.endswith(".json"):
        file = folder / name
        text = damage_json(json.loads(file.read_text(encoding="utf-8")), rng)
        file.write_bytes(
            text.encode("utf-8", "surrogatepass") if rng.random() < 0.8 else damage(file.read_bytes(), rng)
        )
    else:
        _damage_weights(case, folder / name)
    source = rng.choice((f"local-dir:{folder}", str(folder)))
    line = ["segment", case.seeds / "p.png", "-l", "sky", "-l", "tree", "--template", "{}", "--device", "cpu"]
    return command(*line, "--model", source, "-o", case.output)


def _damage_weights(case: Case, file: Path) -> None:
    from safetensors.numpy import load_file, save_file

    rng, data = case.rng, file.read_bytes()
    if rng.random() < 0.4:
        length = int.from_bytes(data[:8], "little")
        header = damage_json(json.loads(data[8 : 8 + length]), rng).encode("utf-8", "surrogatepass")
        file.write_bytes(
            damage(data, rng) if rng.random() < 0.5 else len(header).to_bytes(8, "little") + header + data[8 + length :]
        )
        return
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    array = tensors[name].astype(np.float32)
    kind = rng.randrange(5)
    if kind == 0:
        array.flat[rng.randrange(array.size)] = rng.choice((float("nan"), float("inf"), float("-inf")))
        case.expected["not finite"] = name
    elif kind == 1:
        array = array[..., : array.shape[-1] // 2] if array.ndim else array.reshape(1)
    elif kind == 2:
        array = np.zeros_like(array)
    elif kind == 3:
        array = (array * np.float32(1e30)).astype(np.float32)
    else:
        del tensors[name]
        array = np.zeros(3, dtype=np.float32)
        name = rng.choice((name, "more"))
    tensors[name] = np.ascontiguousarray(array)
    save_file(tensors, file)


def check_models(case: Case, code: int) -> str | None:
    if code:
        return None
    if "not finite" in case.expected:
        return f"success with a model that has numbers that are not finite ({case.expected['not finite']})"
    return wrong_maps([case.output / "p.png"], labels=2)


# What is kept between runs: text embeddings, states and results of evaluations.


def seed_kept(place: Path) -> None:
    (place / "cache").unlink()
    os.environ["CLEARCLIP_CACHE"] = str(place / "cache")
    (place / "source").mkdir()
    picture(1).save(place / "source" / "p.png")
    finish("segment", place / "source", *PLAIN, "-o", place / "whole")
    scenes = [
        "evaluate",
        "scenes",
        "--limit",
        "2",
        "--model",
        "tiny",
        "--template",
        "{}",
        "--method",
        "vanilla,clearclip",
    ]
    finish(*scenes, "-o", place / "measured")
    finish(*scenes, "-o", place / "part", "--shard", "1/2")
    finish(*scenes, "-o", place / "part", "--shard", "2/2")


def prepare_caches(case: Case) -> Action:
    case.cache.unlink()
    shutil.copytree(case.seeds / "cache", case.cache)
    _damage_files(case, case.cache, whole=True)
    return command("segment", case.seeds / "source", *PLAIN, "-o", case.output)


def check_caches(case: Case, code: int) -> str | None:
    if code:
        return "a damaged cache ends the run"
    return wrong_maps([case.output / "p.png"])


def prepare_states(case: Case) -> Action:
    kind = case.rng.choice(("measured", "part"))
    case.expected["kind"] = kind
    shutil.copytree(case.seeds / kind, case.output)
    _damage_files(case, case.output, whole=True)
    scenes = [
        "scenes",
        "--limit",
        "2",
        "--model",
        "tiny",
        "--template",
        "{}",
        "--method",
        "vanilla,clearclip",
        "--device",
        "cpu",
    ]
    return command("evaluate", *(["--merge"] if kind == "part" else scenes), "-o", case.output, "--format", "json")


def prepare_results(case: Case) -> Action:
    text = (case.seeds / "measured" / "results.jsonl").read_text(encoding="utf-8")
    lines = text.splitlines()
    data: bytes
    if case.rng.random() < 0.7:
        lines[0] = damage_json(json.loads(lines[0]), case.rng)
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        data = damage(text.encode(), case.rng)
    file = case.write("results.jsonl", data)
    shown = [part for name in ("md", "csv", "latex", "json") if case.rng.random() < 0.3 for part in ("--format", name)]
    return command("results", file, "--view", case.rng.choice(("runs", "methods", "classes")), *shown)


# Examples of the studio: read as its server reads them.


def seed_examples(place: Path) -> None:
    from clearclip.studio.export import example
    from clearclip.studio.request import Limits, read_request

    (place / "p.png").write_bytes(encoded(1))
    settings = {"labels": ["sky", "tree=bush @#00ff00"], "model": "tiny", "method": "clearclip", "threshold": 0.2}
    request = read_request(**settings, limits=Limits())
    text = example(settings, request=request, image=place / "p.png", limits=Limits())
    (place / "example.json").write_text(text, encoding="utf-8")


def prepare_examples(case: Case) -> Action:
    document = json.loads((case.seeds / "example.json").read_text(encoding="utf-8"))
    if case.rng.random() < 0.2:
        file = case.write("e.json", damage(json.dumps(document).encode(), case.rng))
    else:
        file = case.write("e.json", damage_json(document, case.rng))

    def run() -> None:
        from clearclip.errors import ClearclipError
        from clearclip.images import load_image
        from clearclip.studio.export import read_example
        from clearclip.studio.request import Limits, read_request

        try:
            state, name, data = read_example(file, limits=Limits())
            if "/" in name or "\\" in name or name in ("", ".", ".."):
                raise AssertionError(f"{name!r} is no plain name")
            known = {
                key: state[key] for key in ("model", "method", "threshold", "background", "templates") if key in state
            }
            load_image(data)
            read_request(state.get("labels"), limits=Limits(), **{"model": "tiny", **known})
        except ClearclipError as error:
            print("error:", " ".join(str(error).split()))
            raise SystemExit(error.exit_code) from None

    return run


TARGETS = {
    "images": Target(seed_images, prepare_images, check_images),
    "tars": Target(seed_containers, prepare_tars, check_container),
    "parquet": Target(seed_containers, prepare_parquet, check_container),
    "rasters": Target(seed_rasters, prepare_rasters, check_rasters),
    "bands": Target(seed_bands, prepare_bands, check_bands),
    "videos": Target(seed_videos, prepare_videos, check_videos),
    "masks": Target(seed_videos, prepare_masks, check_masks),
    "ledgers": Target(seed_ledgers, prepare_ledgers, check_ledgers),
    "labels": Target(seed_labels, prepare_labels, check_labels),
    "commands": Target(seed_commands, prepare_commands, check_commands),
    "models": Target(seed_models, prepare_models, check_models),
    "caches": Target(seed_kept, prepare_caches, check_caches),
    "states": Target(seed_kept, prepare_states),
    "results": Target(seed_kept, prepare_results),
    "examples": Target(seed_examples, prepare_examples),
}
