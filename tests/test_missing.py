"""What a machine may lack, and how that is told: libraries, a GPU, a home."""

from __future__ import annotations

import sys

import pytest

from clearclip.backbones.devices import pick_device
from clearclip.errors import UsageError
from clearclip.files import lettering, optional
from clearclip.files.hashes import default_cache_dir


def absent(monkeypatch, *libraries):
    """Let these libraries be not installed."""
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


def test_a_missing_library_is_told_with_a_command_that_installs_it(monkeypatch):
    absent(monkeypatch, "rasterio")
    with pytest.raises(UsageError, match=r'a raster needs rasterio .*: python -m pip install "rasterio>='):
        optional.require("rasterio", extra="geo", purpose="a raster")


@pytest.mark.parametrize("command", ["compare", "inspect", "reproduce"])
def test_figures_ask_for_their_library_before_the_work(run, monkeypatch, photo, tmp_path, command):
    absent(monkeypatch, "matplotlib")
    monkeypatch.setattr("clearclip.segmenter.load", lambda *_, **__: pytest.fail("the model was loaded"))
    given = ("table2",) if command == "reproduce" else (photo(), *(("-l", "sky") if command == "compare" else ()))
    ran = run(command, *given, "-o", tmp_path / "out")
    assert ran.code == 2
    assert "a figure needs matplotlib" in ran.err
    assert '"matplotlib>=' in ran.err
    assert not (tmp_path / "out").exists()


def test_a_gpu_is_told_its_name():
    with pytest.raises(UsageError, match="a GPU is called cuda"):
        pick_device("gpu")


def test_a_user_without_a_home(monkeypatch):
    for name in ("HOME", "CLEARCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a number that no user has
    lettering._installed.cache_clear()
    assert isinstance(lettering._installed(), tuple)
    lettering._installed.cache_clear()
    with pytest.raises(UsageError, match="set CLEARCLIP_CACHE"):
        default_cache_dir()
