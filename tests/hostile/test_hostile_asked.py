"""What commands write, and whom they ask, watched with strace: what docs/security.md says and nothing else."""

import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearclip.files.temporary import temporary_folder
from clearclip.scenes import make_scene

CALLS = (
    *("connect", "bind", "sendto", "sendmsg", "sendmmsg", "open", "openat", "openat2", "creat", "truncate"),
    *("mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "chmod", "fchmodat"),
)
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
ADDRESS = re.compile(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"')
QUIET = ("HF_", "XDG_", "MPL", "TORCH", "RAY_", "GRADIO_", "CLEARCLIP_", "TRANSFORMERS_")
WORDS = ("-l", "sky", "-l", "tree", "--model", "tiny", "--device", "cpu")
SEVERAL = """
import json, sys
from clearclip.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["clearclip", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""
RAY = """
import os, sys
import ray, ray.data  # a program that uses Ray itself
before = dict(os.environ)
from clearclip.cli import main
sys.argv[0] = "clearclip"
try:
    main()
finally:
    print({name for name in (*before, *os.environ) if before.get(name) != os.environ.get(name)})
"""


@pytest.fixture(autouse=True)
def no_network():
    """A test here speaks to its own studio."""


@pytest.fixture(scope="module")
def strace():
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed: nobody watches what commands ask and write")
    options = [found, "-ff", "-qq", "-y", "-s", "512", "-e", "trace=" + ",".join(f"?{call}" for call in CALLS)]
    for more in (["--seccomp-bpf"], []):  # several times faster, where it is known
        tried = subprocess.run([*options, *more, "-o", os.devnull, "true"], capture_output=True, text=True)
        if tried.returncode == 0:
            return [*options, *more]
    pytest.skip(f"strace may not watch processes here: {tried.stderr.strip()[-200:]}")


@dataclass
class Place:
    """Where a watched command runs: every folder that libraries like to write to is a new one."""

    root: Path
    strace: list[str]
    calls: list[str] = field(default_factory=list)

    def __post_init__(self):
        for name in ("home", "tmp", "cache", "here", "out", "trace"):
            (self.root / name).mkdir()
            setattr(self, name, self.root / name)

    def start(self, *command, **options):
        own = {name: value for name, value in os.environ.items() if not name.startswith(QUIET)}
        folders = {"HOME": self.home, "TMPDIR": self.tmp, "CLEARCLIP_CACHE": self.cache}
        own |= {name: str(folder) for name, folder in folders.items()}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [*self.strace, "-o", self.trace / "of", sys.executable, *map(str, command)],
            env=own, cwd=self.here, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def end(self, process):
        """What it still said; the trace is read."""
        said = process.communicate()[0]
        for file in sorted(self.trace.iterdir()):
            self.calls += file.read_text(errors="replace").splitlines()
        assert len(self.calls) > 100, "strace saw nothing"
        return said

    def asked(self):
        """Calls that name another machine, or a name server."""
        return [
            line
            for line in self.calls
            for address in ADDRESS.findall(line)
            if not is_loopback(ipaddress.ip_address(address)) or "htons(53)" in line
        ]

    def written(self, *allowed):
        """Calls that made, changed or removed a file which is none of the allowed: folders, or patterns."""
        patterns = [re.compile(rf"{one}(/.*)?") for one in allowed]
        return [
            line
            for line in self.calls
            for path in changed(line)
            if not any(pattern.fullmatch(path) for pattern in patterns)
        ]


def is_loopback(address):
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def changed(line):
    """Paths that a call made, changed or removed; none where it failed."""
    found = CALL.match(line)
    if found is None or int(found[3]) < 0 or found[1] in ("connect", "sendto", "sendmsg", "sendmmsg"):
        return []
    name, arguments = found[1], found[2]
    if name.startswith("open") and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", arguments):
        return []
    paths = [str(Path(place, path)) for place, path in PATH.findall(arguments)]
    if name == "bind":
        return re.findall(r'sun_path="([^"]+)"', arguments)
    return paths if name.startswith("rename") else paths[-1:]


@pytest.fixture
def place(tmp_path, strace):
    return Place(tmp_path.resolve(), strace)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(make_scene(index, size=(64, 64)).image).save(folder / f"{index}.png")
    return folder


def film(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        for index in range(3):
            picture = np.full((64, 64, 3), 20 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def everywhere(place):
    """What docs/security.md says of all commands."""
    home, tmp = re.escape(str(place.home)), re.escape(str(place.tmp))
    return [
        re.escape(str(place.out)),
        re.escape(str(place.cache)),
        "/dev/null",
        "/dev/tty",
        "/proc/self/.*",
        f"{tmp}/[a-z0-9_]{{8}}",  # Python looks whether it can write there
        f"{tmp}/clearclip-(tokenizer|studio)-[^/]*",
        f"{tmp}/torchinductor_[^/]*",
        rf"{home}/\.(cache|config)/(matplotlib|fontconfig)",
        rf"{home}/\.(cache|config)",
    ]


def left(folder):
    """What lies in a folder, but for the empty one that PyTorch makes."""
    return [path for path in folder.rglob("*") if not path.name.startswith("torchinductor_")]


def test_commands_ask_nobody_and_write_where_they_are_told(place, images, tmp_path):
    out, one, label_file = place.out, images / "0.png", tmp_path / "labels.txt"
    label_file.write_text("sky\ntree\n")
    commands = [
        ("segment", images, *WORDS, "-o", out / "labelled", "--format", "yolo", "--format", "coco"),
        ("demo", "--limit", 1, "-o", out / "demo"),
        ("compare", one, *WORDS, "--methods", "clearclip", "-o", out / "compare"),
        ("inspect", one, "--model", "tiny", "-o", out / "inspect"),
        ("tags", images, *WORDS, "-o", out / "tags.csv"),
        ("labels", "check", *WORDS),
        ("labels", "convert", label_file, "-o", out / "labels.yaml"),
        ("evaluate", "scenes", "--model", "tiny", "--limit", 1, "-o", out / "results"),
        ("results", out / "results"),
        *(("segment", images, *WORDS, "-o", out / "parts", "--shard", f"{index}/2") for index in (1, 2)),
        ("merge", out / "parts"),
        *([(name,) for name in ("models", "methods", "benchmarks")]),
        ("models", "download", "tiny"),
        ("cache", "--clear"),
    ]
    if find_spec("rasterio"):
        commands.append(("large", one, *WORDS, "-o", out / "map.tif", "--polygons", out / "map.geojson"))
    if find_spec("av"):
        commands.append(("video", film(tmp_path / "film.mp4"), *WORDS, "-o", out / "film.mp4", "--masks"))
    process = place.start("-c", SEVERAL, json.dumps([list(map(str, words)) for words in commands]))
    said = place.end(process)
    assert process.returncode == 0, said
    assert not place.asked()
    assert not place.written(*everywhere(place))
    assert not left(place.tmp)
    assert not left(place.here)


def test_ray_asks_nobody_and_leaves_nothing(place, images):
    pytest.importorskip("ray", reason="ray has no wheel for this Python")
    out = place.out / "labelled"
    process = place.start("-c", RAY, "segment", images, *WORDS, "-o", out, "--engine", "ray", "--workers", 1)
    said = place.end(process)
    assert process.returncode == 0, said
    assert "2 segmented" in said
    assert not place.asked()
    own = "/tmp/clearclip-ray-[a-z0-9_]{8}"
    shared_memory = ["/dev/shm/plasma[^/]*", r"/proc/\d+/oom_score_adj"]
    assert not place.written(*everywhere(place), own, *shared_memory)
    trace = "\n".join(place.calls)
    made = set(re.findall(rf'mkdir\("({own})", (\d+)\) += 0', trace))
    assert [mode for _, mode in made] == ["0700"]
    for folder, _ in made:
        assert re.search(rf'"{folder}/token", O_WRONLY\|O_CREAT\S*, 0600\)', trace)
        assert not Path(folder).exists()
    assert not [*left(place.tmp), *left(place.here), *left(place.home)]
    for name in ("TMPDIR", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        assert f"'{name}'" not in said, "the program's own Ray would take it up"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_the_studio_asks_nobody_and_leaves_nothing(place, images, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the studio needs the extra 'app'")
    client = pytest.importorskip("gradio_client")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the client leaves folders there
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = place.start("-m", "clearclip", "app", "--no-browser", "--port", port, "--models", "tiny")
    try:
        url = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        asking = client.Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        image = client.handle_file(str(images / "0.png"))
        answer, _ = asking.predict(image=image, labels=["sky", "tree"], api_name="/segment")
        assert answer["labels"]
        assert left(place.tmp), "it holds the upload"
    finally:
        (studio,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(studio), signal.SIGTERM)
        said = place.end(process)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert not place.asked()
    assert not place.written(*everywhere(place))
    assert not [*left(place.tmp), *left(place.here)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_process_folder_goes_with_the_next_and_a_living_one_stays(tmp_path):
    code = (
        "import sys; from pathlib import Path; from clearclip.files.temporary import temporary_folder\n"
        "with temporary_folder('clearclip-ray-', parent=Path(sys.argv[1])) as folder:\n"
        "    (folder / 'session').mkdir(); print(folder, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        theirs = Path(process.stdout.readline().strip())
        precious = tmp_path / "clearclip-ray-photos"  # somebody's, by chance of that name: it has no lock
        precious.mkdir()
        with temporary_folder("clearclip-ray-", parent=tmp_path) as ours:
            assert (theirs / "session").is_dir()
            assert ours.stat().st_mode & 0o077 == 0
        process.kill()
        process.wait(30)
        assert theirs.is_dir()
    with temporary_folder("clearclip-ray-", parent=tmp_path):
        assert not theirs.exists()
    assert list(tmp_path.iterdir()) == [precious]
