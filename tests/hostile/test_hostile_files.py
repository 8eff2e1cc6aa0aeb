"""What may be opened and who may write: `clearclip.files`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clearclip.errors import UsageError
from clearclip.files.reading import RefusedError, open_regular, read_bytes, read_text, regular_inside
from clearclip.files.writing import PREFIX, Written, atomic_write, claim, move, sweep

HOLD = """
import sys, time
from pathlib import Path
from clearclip.files.writing import atomic_write, claim
with claim(Path(sys.argv[1])), atomic_write(Path(sys.argv[1]) / "half.png"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process at work in `tmp_path / "out"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError, match="named pipe"):
        open_regular(tmp_path / "pipe")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
def test_a_device_is_refused():
    with pytest.raises(RefusedError, match="device"):
        read_bytes("/dev/zero", limit=10)


def test_folders_large_files_and_other_encodings_are_refused(tmp_path):
    (tmp_path / "words").write_bytes("Küche".encode("latin-1"))
    with pytest.raises(OSError, match="a folder"):
        open_regular(tmp_path)
    with pytest.raises(RefusedError, match="5 bytes, more than the limit of 4"):
        read_bytes(tmp_path / "words", limit=4)
    with pytest.raises(RefusedError, match="byte 1 is not UTF-8"):
        read_text(tmp_path / "words", limit=100)
    (tmp_path / "words").write_bytes("\ufeffKüche".encode())
    assert read_text(tmp_path / "words", limit=100) == "Küche"


def test_only_files_that_really_lie_in_a_folder_are_inside(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "mine.png").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"2")
    (inner / "link").symlink_to(tmp_path / "secret")
    assert regular_inside(inner / "mine.png", [inner]) == (inner / "mine.png").resolve()
    for path in (inner / "link", tmp_path / "secret", inner / ".." / "secret", inner, inner / "none", "\0", "", "/etc"):
        with pytest.raises(RefusedError):
            regular_inside(path, [inner])


def test_one_process_holds_a_folder_until_it_ends(tmp_path, holder):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="another run is at work"), claim(out):
        pass
    with claim(out / "sub"), claim(out / "a.tif", is_file=True):
        pass  # neither the same folder nor the same file
    sweep(out)
    assert len(list(out.glob(f"{PREFIX}*.png"))) == 1  # alive
    holder.kill()
    holder.wait()
    with claim(out):
        assert not list(out.glob("*.png"))
    assert not list(out.glob(f"{PREFIX}*"))


def test_a_claim_holds_against_many_threads(tmp_path):
    inside, most, done = 0, 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most, done
        for _ in range(200):
            try:
                with claim(tmp_path / "out"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                        done += 1
                    with guard:
                        inside -= 1
            except UsageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert done > 100


@pytest.mark.parametrize(
    "name", ["foo.png", "settings.json", "lock-mine", "locked", "0123456789abcdef", "0123456789ABCDEF-abcdefgh.png"]
)
def test_a_users_file_with_our_prefix_stays(tmp_path, name):
    mine = tmp_path / f"{PREFIX}{name}"
    mine.write_bytes(b"mine")
    with claim(tmp_path), atomic_write(tmp_path / "a.png"):
        pass
    sweep(tmp_path)
    assert mine.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another"), claim(tmp_path / "file" / "out"):
        pass


def test_nothing_is_replaced_that_stands_there_by_then(tmp_path):
    target = tmp_path / "a.txt"

    def write():
        with atomic_write(target, replace=False) as partial:
            partial.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(FileExistsError):
        write()
    assert target.read_text() == "theirs"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_dangling_link_is_no_place_for_a_file(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "new").write_text("ours")
    with pytest.raises(FileExistsError):
        move(tmp_path / "new", tmp_path / "a.txt", replace=False)
    assert not (tmp_path / "elsewhere").exists()


def test_no_replacement_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    (tmp_path / "new").write_text("ours")
    move(tmp_path / "new", tmp_path / "a.txt", replace=False)
    (tmp_path / "new").write_text("again")
    with pytest.raises(FileExistsError):
        move(tmp_path / "new", tmp_path / "a.txt", replace=False)
    assert (tmp_path / "a.txt").read_text() == "ours"


def test_a_file_stands_while_its_bytes_do(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    written = Written.of(file)
    assert written.stands(file)
    os.utime(file, ns=(1, 1))
    assert written.stands(file)  # copied, not changed
    for changed in (b"", b"123", b"12346"):
        file.write_bytes(changed)
        assert not written.stands(file)
    file.unlink()
    assert not written.stands(file)
