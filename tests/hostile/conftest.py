"""What tests of hostile rasters share."""

import numpy as np
import pytest

WORDS = ["sky", "grass"]


@pytest.fixture
def make(tmp_path):
    """Writes a GeoTIFF of noise, or of nothing."""
    rasterio = pytest.importorskip("rasterio")

    def call(name="photo.tif", height=40, width=50, *, dtype="uint8", empty=False, tags=None, **options):
        shape = {"count": 3, "height": height, "width": width, "dtype": dtype, "photometric": "rgb"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", **{**shape, **options}) as target:
            if not empty:
                values = np.random.default_rng(0).integers(0, 255, (3, height, width))
                target.write(values.astype(dtype))
            for namespace, texts in (tags or {}).items():
                target.update_tags(ns=namespace, **texts)
        return tmp_path / name

    return call


@pytest.fixture
def label(segmenter, tmp_path):
    from clearclip.large.label import segment_large

    def call(image, **options):
        return segment_large(segmenter, image, **{"labels": WORDS, "output": tmp_path / "out.tif", **options})

    return call
