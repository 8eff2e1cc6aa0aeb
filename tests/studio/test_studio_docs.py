"""The Python blocks of the documentation's page, against a running studio."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio_client")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

PAGE = Path(__file__).parents[2] / "docs" / "studio.md"


def test_the_pages_api_lines_run(server, photo, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    image = photo(height=96, width=120)
    monkeypatch.chdir(image.parent)
    names = {}
    for block in blocks:
        assert "photo.png" in block
        exec(compile(block.replace("http://127.0.0.1:7860/", server.url), str(PAGE), "exec"), names)
    assert np.asarray(Image.open(names["label_map"])).shape == (96, 120)
    said = capsys.readouterr().out
    for word in ("background:", "grass:", "'label': ", "clearclip segment photo.png"):
        assert word in said
    assert len(names["overlays"]) == 2
    assert len(names["files"]) == 3
    names["studio"].close()
