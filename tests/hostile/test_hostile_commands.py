"""Two commands at once in one place: the second is refused before it changes a byte."""

import pytest

from clearclip.files.writing import claim
from clearclip.scenes import make_scene


@pytest.fixture
def scene(tmp_path):
    from PIL import Image

    path = tmp_path / "scene.png"
    Image.fromarray(make_scene(0, size=(64, 64)).image).save(path)
    return path


@pytest.mark.parametrize("command", ["demo", "compare", "inspect", "tags"])
def test_a_folder_that_another_run_holds_is_refused(run, scene, tmp_path, command):
    out = tmp_path / "out"
    words = {
        "demo": ["demo", "--limit", 1],
        "compare": ["compare", scene, "-l", "sky", "-l", "tree", "--model", "tiny", "--methods", "clearclip"],
        "inspect": ["inspect", scene, "--model", "tiny"],
        "tags": ["tags", scene, "-l", "sky", "--model", "tiny"],
    }[command]
    target = out / "tags.csv" if command == "tags" else out
    with claim(out):
        before = sorted(out.iterdir())
        ran = run(*words, "-o", target)
        assert (ran.code, sorted(out.iterdir())) == (2, before)
    assert "another run is at work" in ran.err


def test_an_evaluation_that_another_run_is_at_work_on_is_refused(run, tmp_path):
    words = ["evaluate", "scenes", "--model", "tiny", "--limit", 1, "-o", tmp_path / "out", "--device", "cpu"]
    assert run(*words).code == 0
    (state,) = (tmp_path / "out" / "state").glob("*.npz")
    with claim(state, is_file=True):
        ran = run(*words)
    assert ran.code == 2
    assert "another run is at work" in ran.err
    assert run(*words).code == 0
