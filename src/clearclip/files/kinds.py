"""Which files are images, by name and by first bytes, and which folders hold copies that programs made of them."""

from __future__ import annotations

from collections.abc import Iterable

IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
    "SGI": (".sgi", ".bw"),
    "PCX": (".pcx",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Pillow's decoders that may see a file, in the order they are asked: others run programs (EPS: Ghostscript), or few
people have tested them. TGA is last, as its files begin with nothing that only they have."""
IMAGE_SUFFIXES = frozenset(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
COPIES = frozenset(("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"))
"""Thumbnails, deleted files and earlier states that systems and network drives keep, in small letters."""

UNPACK = "{}: unpack it first, or pack its images into an uncompressed .tar"
DAMAGED = "a damaged or cut {}"
TIFF = "a TIFF that is damaged, or of a kind that Pillow does not read: try `clearclip large` (extra geo)"
BEGINNINGS = (
    (0, b"\xff\xd8\xff", DAMAGED.format("JPEG")),
    (0, b"\x89PNG", DAMAGED.format("PNG")),
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"GIF8", DAMAGED.format("GIF")),
    (8, b"WEBP", DAMAGED.format("WebP")),
    (4, b"ftypavif", "an AVIF that is damaged, or newer than this Pillow: try pip install --upgrade pillow"),
    *(
        (4, b"ftyp" + brand, "a HEIC that is damaged, or lacks its decoder: python -m pip install pillow-heif")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    (0, b"\x1f\x8b", UNPACK.format("compressed by gzip")),
    (0, b"BZh", UNPACK.format("compressed by bzip2")),
    (0, b"\xfd7zXZ\0", UNPACK.format("compressed by xz")),
    (0, b"\x28\xb5\x2f\xfd", UNPACK.format("compressed by zstd")),
    (0, b"PK\3\4", UNPACK.format("a ZIP archive")),
    (0, b"7z\xbc\xaf\x27\x1c", UNPACK.format("a 7z archive")),
    (0, b"Rar!", UNPACK.format("a RAR archive")),
    (257, b"ustar", "a tar: give it the suffix .tar"),
    (0, b"PAR1", "a Parquet file: give it the suffix .parquet"),
    (0, b"%PDF", "a PDF: save its pages as images"),
    (0, b"8BPS", "a Photoshop file: save it as PNG or TIFF"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
)
"""Place, bytes, and what a file is that has them there, as the end of "it is …"."""
HEAD = 262


def kind_of(head: bytes) -> str | None:
    """What a file that no decoder takes seems to be, with what to do, by its first `HEAD` bytes; `None`: unknown."""
    return next((text for place, start, text in BEGINNINGS if head.startswith(start, place)), None)


def kept_by_systems(folders: Iterable[str]) -> str | None:
    """The first of the folders' names that is hidden, or one of `COPIES`."""
    names = (name for name in folders if name.strip("."))  # no . and ..
    return next((name for name in names if name.startswith(".") or name.lower() in COPIES), None)
