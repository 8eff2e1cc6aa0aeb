"""The README's commands and code are what a newcomer types: each runs here, on `tiny` and generated pictures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import av
import pytest
from PIL import Image

from clearclip.checkpoints import CHECKPOINTS
from clearclip.methods import METHODS
from clearclip.scenes import make_scene

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^clearclip .+$", README, flags=re.MULTILINE)
SERVERS = ("clearclip app",)  # it ends when it is told to: tests/studio
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def write_video(path, picture):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for index in range(2):
        Image.fromarray(make_scene(index, split="test").image).save(tmp_path / "photos" / f"scene-{index}.png")
    picture = make_scene(2, split="test").image
    Image.fromarray(picture).save(tmp_path / "horses.jpg")
    Image.fromarray(picture).save(tmp_path / "orthophoto.tif")
    write_video(tmp_path / "ride.mp4", picture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in SERVERS])
def test_commands(command, newcomer, shared, run):
    words = shlex.split(command.replace("s3://bucket/", "").replace("/shared/", "").replace(" --address auto", ""))
    if "--model" in words:
        words[words.index("--model") + 1] = "tiny"
    else:
        words += ["--model", "tiny"]
    if "--limit" in words:
        words[words.index("--limit") + 1] = "2"
    if "--data" in words:
        words[words.index("--data") + 1] = str(shared / "samples" / "voc2012")
        words += ["--limit", "1"]
    ran = run(*words[1:])
    assert ran.code == 0, ran.err
    output = newcomer / words[words.index("-o") + 1]
    assert any(output.iterdir()) if output.is_dir() else output.stat().st_size > 0


@pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python(block, newcomer):
    offline = block.replace('"clip-b16"', '"tiny"').replace('pretrained="openai"', "pretrained=None")
    values = {}
    exec(compile(offline, "README.md", "exec"), values)
    if "segmenter" in values:
        assert (newcomer / "horses.png").is_file()
        assert (newcomer / "horses-overlay.jpg").is_file()
    else:
        assert tuple(values["features"].shape) == (2, 21, 28, 512)


def test_tables_name_what_there_is():
    for name in (*CHECKPOINTS, *METHODS):
        assert f"`{name}`" in README, f"the README does not name {name}"


def test_exactly_two_setup_commands():
    assert len(re.findall(r"^python -m pip .+$", README, flags=re.MULTILINE)) == 2
