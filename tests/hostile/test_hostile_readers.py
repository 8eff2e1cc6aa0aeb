"""Images, tars and Parquet files that lie about their size, never end, or are no files at all."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from clearclip import ImageError
from clearclip.encode.images import load_image
from clearclip.engine.containers import MAX_MEMBER, read_members
from clearclip.files.label_maps import read_comment, read_info

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from clearclip.engine.containers import read_members
for member in read_members(sys.argv[2]):
    print(len(member.data), (member.reason or "")[-160:])
"""


def encoded(size=(9, 8), kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def add(archive, name, data=b"", **fields):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for field, value in fields.items():
        setattr(entry, field, value)
    archive.addfile(entry, io.BytesIO(data))


def in_little_memory(path, memory=6 << 30):
    """The members of a container, read by a process that may not take more memory (most of it is for libraries)."""
    pytest.importorskip("resource", reason="no limits of memory here")
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(memory), str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-500:]
    return ran.stdout.splitlines()


def test_a_tar_that_claims_gigabytes_gives_the_other_images(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "a.png", encoded())
        sparse = tarfile.TarInfo("b.png")
        sparse.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(5 << 30),
            "GNU.sparse.name": "b.png",
        }  # fmt: skip
        sparse.size = 512
        archive.addfile(sparse, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
        add(archive, "c.png", encoded())
    assert path.stat().st_size < 20_000
    lines = in_little_memory(path)
    assert [line.split()[0] != "0" for line in lines] == [True, False, True]
    assert "sparse" in lines[1]


def test_a_member_above_the_limit_is_named_and_skipped(tmp_path, monkeypatch):
    from clearclip.engine import containers

    monkeypatch.setattr(containers, "MAX_MEMBER", 1000)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        add(archive, "a.png", b"x" * 1001)
        add(archive, "b.png", encoded())
    first, second = read_members(tmp_path / "t.tar")
    assert "1,001 bytes, more than the limit of 1,000" in first.reason
    assert second.data == encoded()
    assert MAX_MEMBER <= 1 << 27


def test_a_small_parquet_file_of_gigabytes_is_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    value = arrow.scalar(b"\0" * (64 << 20), arrow.binary())
    table = arrow.table({"image": arrow.array([value.as_py()] * 20, arrow.binary())})
    parquet.write_table(table, tmp_path / "p.parquet", compression="zstd", use_dictionary=False, data_page_size=1 << 32)
    assert (tmp_path / "p.parquet").stat().st_size < 2 << 20
    lines = in_little_memory(tmp_path / "p.parquet")
    assert "bytes are allowed" in lines[-1] or all(int(line.split()[0]) <= 64 << 20 for line in lines)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("suffix", [".png", ".tar", ".parquet"])
def test_what_is_no_file_is_refused_at_once(tmp_path, suffix):
    pipe, plug = tmp_path / f"pipe{suffix}", tmp_path / f"plug{suffix}"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(plug))
    for path in (pipe, plug):
        if suffix == ".png":
            with pytest.raises(ImageError, match=r"cannot be read"):
                load_image(path)
            assert read_info(path) == read_comment(path) == {}
        else:
            (member,) = read_members(path)
            assert "cannot be read" in member.reason


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")  # noqa: PTH110
def test_a_device_is_no_image():
    with pytest.raises(ImageError, match="device"):
        load_image("/dev/zero")


def test_odd_members_of_a_tar(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        add(archive, "../../up.png", encoded())
        add(archive, "/etc/absolute.png", encoded())
        add(archive, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add(archive, "device.png", type=tarfile.CHRTYPE)
        add(archive, "caf\udce9.png", encoded())
        add(archive, "n" * 300 + ".png", encoded())
    members = list(read_members(tmp_path / "t.tar"))
    assert len(members) == 7
    assert [bool(member.data) for member in members] == [True, True, False, False, False, True, True]
    assert all("/" not in member.stem and member.stem != ".." for member in members)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_tar_that_was_cut_says_so(tmp_path, cut):
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for index in range(5):
            add(archive, f"{index}.png", encoded((60, 50)))
    data = (tmp_path / "whole.tar").read_bytes()[: 5 * 1024]
    (tmp_path / "t.tar").write_bytes(data[: int(len(data) * cut) // 512 * 512 + 100])
    members = list(read_members(tmp_path / "t.tar"))
    assert members[-1].reason is not None


ERRORS = [OverflowError, KeyError, IndexError, MemoryError, RecursionError, zlib.error, TypeError, AttributeError]


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_decoder_raises_is_an_image_error(tmp_path, monkeypatch, error):
    (tmp_path / "a.png").write_bytes(encoded())

    def fail(*_):
        raise error("damaged")

    monkeypatch.setattr(Image.Image, "convert", fail)
    for image in (tmp_path / "a.png", encoded(), Image.new("L", (3, 3))):
        with pytest.raises(ImageError):
            load_image(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pixels_with_damaged_exif_are_read(kind):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x09\xff\xff\xff\xff"
    assert load_image(encoded(kind=kind, exif=exif)).shape == (9, 8, 3)


def test_the_attacks_images_are_read_or_refused(shared):
    folders = [shared / "cases" / "attack", shared / "cases" / "01-exif-broken"]
    files = [file for folder in folders for file in folder.glob("*") if file.suffix in (".png", ".webp", ".jpg")]
    assert files
    for file in files:
        assert load_image(file).ndim == 3, file


def test_texts_of_a_png_that_unpack_to_gigabytes_are_not_read(tmp_path):
    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    whole = encoded()
    head, rest = whole[:33], whole[33:]
    (tmp_path / "bomb.png").write_bytes(head + chunk(b"zTXt", b"software\0\0" + packed) + rest)
    assert len(read_info(tmp_path / "bomb.png").get("software", "")) < 1 << 26
