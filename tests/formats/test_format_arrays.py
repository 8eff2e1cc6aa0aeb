"""NPZ and Parquet, read back by numpy, pandas and pycocotools."""

import json

import numpy as np
import pytest

from clearclip import Vocabulary
from clearclip.formats import Choices, Run, Writer, get_formats
from format_cases import INFO, LABEL_MAPS, NAMES

WORDS = ["sky", "tree=oak|pine", "no pixels", "grass"]


@pytest.mark.parametrize("background", [None, "the rest"])
def test_probability_maps(segmenter, picture, tmp_path, background):
    vocabulary = Vocabulary.parse(WORDS, background=background)
    result = segmenter(picture(150, 33), vocabulary, threshold=0.3 if background else None)
    writer = Writer(get_formats(["npz"]), Run(tmp_path, vocabulary, INFO))
    assert writer.write(result, stem="a", source="a.png")["formats"] == {"npz": {}}
    with np.load(tmp_path / "npz" / "a.npz") as archive:
        probabilities = archive["probabilities"]
        assert probabilities.dtype == np.float16
        assert probabilities.shape == (len(vocabulary.names), 150, 33)
        for name, probability in zip(archive["labels"].tolist(), probabilities, strict=True):
            np.testing.assert_array_equal(probability, result.probabilities(name).astype(np.float16))
        info = json.loads(str(archive["info"]))
    assert info["labels"] == list(vocabulary.names)
    assert info["method"] == "clearclip"
    assert info["source"] == "a.png"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_the_table_is_the_label_maps(write):
    parquet = pytest.importorskip("pyarrow.parquet")
    coco_masks = pytest.importorskip("pycocotools.mask")
    done = write("parquet", choices=Choices(things=(NAMES[0],)))
    file = done.folder / "regions.parquet"
    table = parquet.read_table(file).to_pandas()
    assert json.loads(parquet.read_schema(file).metadata[b"clearclip"]) == {**INFO, "labels": NAMES}
    assert set(table["stem"]) == set(LABEL_MAPS)
    for stem, rows in table.groupby("stem"):
        found = np.full(LABEL_MAPS[stem].shape, -1)
        for row in rows.itertuples(index=False):
            mask = coco_masks.decode({"size": [row.height, row.width], "counts": row.rle}).astype(bool)
            assert row.path == str(done.images / f"{stem}.png")
            assert row.area == mask.sum()
            assert row.isthing == (row.label == NAMES[0])
            x, y, width, height = row.box.tolist()
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert row.score == pytest.approx(done.results[stem].scores[mask].mean(), abs=2e-6)
            found[mask] = NAMES.index(row.label)
        assert np.array_equal(found, LABEL_MAPS[stem])
