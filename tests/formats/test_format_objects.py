"""Results as other libraries' objects, looked at with their own methods."""

import sys
import warnings

import numpy as np
import pytest

from clearclip import UsageError
from format_cases import INFO, LABEL_MAPS, NAMES, make, noise

THINGS = NAMES[:2]


@pytest.mark.parametrize("stem", LABEL_MAPS)
@pytest.mark.parametrize("things", [[], THINGS], ids=["stuff", "things"])
def test_detections(stem, things):
    supervision = pytest.importorskip("supervision")
    result = make(LABEL_MAPS[stem])
    detections = result.to_detections(things=things)
    assert isinstance(detections, supervision.Detections)
    found = np.full(result.label_map.shape, -1)
    for mask, label in zip(detections.mask, detections.class_id, strict=True):
        found[mask] = label
    assert np.array_equal(found, result.label_map)
    assert detections.area.tolist() == [mask.sum() for mask in detections.mask]
    whole = detections.xyxy - [0, 0, 1, 1]  # supervision's own boxes end at the last pixel
    assert np.array_equal(whole, supervision.mask_to_xyxy(detections.mask))
    assert detections["class_name"].tolist() == [NAMES[label] for label in detections.class_id]
    assert detections.metadata == INFO
    scores = [result.scores[mask].mean() for mask in detections.mask]
    np.testing.assert_allclose(detections.confidence, scores, atol=2e-6)


def test_an_annotator_draws_them():
    supervision = pytest.importorskip("supervision")
    result = make(LABEL_MAPS["blobs"])
    detections = result.to_detections(things=THINGS, min_area=50)
    assert 0 < len(detections) < len(result.to_detections(things=THINGS))
    drawn = supervision.MaskAnnotator().annotate(result.image.copy(), detections)
    covered = detections.mask.any(axis=0)
    assert (drawn != result.image).any(axis=2)[covered].mean() > 0.9
    assert np.array_equal(drawn[~covered], result.image[~covered])


def test_nothing_is_left():
    pytest.importorskip("supervision")
    assert len(make(LABEL_MAPS["single"]).to_detections(min_area=2)) == 0


@pytest.mark.parametrize("call", ["to_detections", "to_fiftyone"])
def test_what_is_missing_is_said(call, monkeypatch):
    library = {"to_detections": "supervision", "to_fiftyone": "fiftyone"}[call]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"{call} needs {library} .*pip install {library}"):
        getattr(make(LABEL_MAPS["single"]), call)()


def test_unknown_things_are_refused():
    pytest.importorskip("supervision")
    with pytest.raises(UsageError, match=r"label 'sky:see' .* did you mean 'sky:sea'"):
        make(LABEL_MAPS["single"]).to_detections(things=["sky:see"])


def test_fiftyone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        fiftyone = pytest.importorskip("fiftyone", reason="the extra interop is not installed")
    for label_map in [*LABEL_MAPS.values(), noise(20, 31, labels=299)]:
        names = NAMES if label_map.max() < 5 else [f"label {index}" for index in range(299)]
        result = make(label_map, names)
        segmentation = result.to_fiftyone()
        assert isinstance(segmentation, fiftyone.Segmentation)
        assert np.array_equal(segmentation.mask.astype(int) - 1, label_map)
        assert segmentation["clearclip"]["model"] == INFO["model"]
        height, width = label_map.shape
        objects = result.to_fiftyone(things=names[:2])
        assert isinstance(objects, fiftyone.Detections)
        found = np.full(label_map.shape, -1)
        for detection in objects.detections:
            mask = detection.to_segmentation(frame_size=(width, height)).mask > 0
            assert detection.confidence == pytest.approx(result.scores[mask].mean(), abs=2e-6)
            found[mask] = names.index(detection.label)
        assert np.array_equal(found, label_map)
