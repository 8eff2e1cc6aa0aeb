"""The Python API: load, call, encode once and classify often, results."""

import io
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
import tiny_models
from clearclip import ImageError, Label, UnsupportedModelError, UsageError, Vocabulary
from clearclip.encode.images import normalize, resize, resized_size
from clearclip.protocol import CLIP_MEAN, CLIP_STD
from tiny_models import counted

WORDS = ["sky", "person=man|woman", "grass"]
METHODS = ["vanilla", "clearclip", "sclip+clearclip", "clearclip[residual=beta:30]"]


@pytest.fixture(scope="module")
def image():
    """A smooth picture with structure, 90×130."""
    y, x = np.mgrid[:90, :130]
    waves = np.stack([np.sin(y / 9), np.cos(x / 7), np.sin((x + y) / 11)], axis=-1)
    return np.rint(127 + 120 * waves).astype(np.uint8)


def same(one, other):
    np.testing.assert_array_equal(one.label_map, other.label_map)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-6)


def test_readme_in_three_lines(clip_folder, tmp_path, image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image).save("horses.png")
    segmenter = clearclip.load(str(clip_folder), method="clearclip", device="cpu", templates="a photo of a {}.")
    result = segmenter("horses.png", ["sky", "tree", "horse", "grass"], method="vanilla")
    assert result.label_map.shape == result.scores.shape == (90, 130)
    assert (result.label_map.dtype, result.scores.dtype) == (np.int32, np.float32)
    assert result.labels == ("sky", "tree", "horse", "grass")
    assert len(np.unique(result.label_map)) > 1
    assert result.scores.min() > 0.24
    assert result.scores.max() <= 1
    result.save("out.png")
    result.overlay().save("overlay.jpg")
    with Image.open("out.png") as written:
        assert np.array_equal(np.asarray(written), result.label_map)


def test_forms_of_an_image(segmenter, tmp_path, image):
    file = tmp_path / "a.png"
    Image.fromarray(image).save(file)
    expected = segmenter(image, WORDS)
    for form in (file, str(file), Image.fromarray(image)):
        same(segmenter(form, WORDS), expected)
    listed = segmenter([file, image], WORDS)
    assert isinstance(listed, list)
    for result in (*listed, *segmenter((image,), WORDS)):
        same(result, expected)
    with pytest.raises(UsageError, match="no images"):
        segmenter([], WORDS)
    with pytest.raises(ImageError, match="no such file"):
        segmenter([image, tmp_path / "absent.png"], WORDS)


def test_images_together_equal_images_alone(segmenter, image, picture):
    """Windows of different images and sizes go through the encoder together."""
    images = [image, picture(40, 40), image.transpose(1, 0, 2).copy(), picture(7, 90), image[::-1].copy()] * 2
    for result, alone in zip(segmenter(images, WORDS), images, strict=True):
        same(result, segmenter(alone, WORDS))


def test_a_call_is_the_protocol_written_out(segmenter, image):
    """Resize, normalise, windows, softmax over queries, best query of each class."""
    numbers = segmenter.protocol.in_pixels(32)
    assert (numbers.short_side, numbers.crop_size, numbers.stride) == (64, 64, 32)
    prepared = normalize(resize(image, resized_size(90, 130, numbers)), mean=CLIP_MEAN, std=CLIP_STD)[None]
    logits = segmenter.logits(prepared, segmenter.embed(WORDS), size=(90, 130))[0]
    probabilities = (logits * 50).softmax(dim=0)
    classes = torch.stack([probabilities[0], probabilities[1:4].amax(dim=0), probabilities[4]])
    result = segmenter(image, WORDS)
    agree = (classes.argmax(dim=0).numpy() == result.label_map).mean()
    assert agree > 0.999
    np.testing.assert_allclose(result.scores, classes.amax(dim=0), rtol=1e-3, atol=1e-5)
    for index, label in enumerate(result.labels):
        np.testing.assert_allclose(result.probabilities(label), classes[index], rtol=1e-3, atol=1e-5)


def test_masks_probabilities_and_ranking(segmenter, image):
    result = segmenter(image, WORDS)
    masks = [result.mask(label) for label in result.labels]
    assert all(mask.dtype == bool for mask in masks)
    assert (sum(mask.astype(int) for mask in masks) == 1).all()
    probabilities = np.stack([result.probabilities(label) for label in result.labels])
    assert probabilities.dtype == np.float32
    for y, x in [(0, 0), (89, 129), (40, 7)]:
        ranking = result.ranking(y, x)
        assert ranking[0][0] == result.labels[result.label_map[y, x]]
        assert {name for name, _ in ranking} == set(result.labels)
        assert ranking == sorted(ranking, key=lambda item: -item[1])
        for name, probability in ranking:
            assert probability == pytest.approx(probabilities[result.labels.index(name), y, x], abs=1e-4)
    with pytest.raises(UsageError, match="did you mean 'grass'"):
        result.mask("gras")
    with pytest.raises(UsageError, match="none of this vocabulary"):
        result.probabilities("horse")
    for outside in ((90, 0), (0, 130), (-1, 0)):
        with pytest.raises(IndexError):
            result.ranking(*outside)


def test_probabilities_of_all_queries_sum_to_one(segmenter, image, monkeypatch):
    monkeypatch.setattr("clearclip.classify.winners.PIXELS", 64)
    words = [f"thing {index}" for index in range(10)]
    result = segmenter(image, words)
    total = sum(result.probabilities(word) for word in words)
    np.testing.assert_allclose(total, 1, atol=1e-4)


def test_encode_and_classify_equal_a_call(segmenter, image):
    encoded = segmenter.encode(image)
    same(segmenter.classify(encoded, WORDS), segmenter(image, WORDS))
    same(segmenter.classify(encoded, ["horse", "not a horse"]), segmenter(image, ["horse", "not a horse"]))
    several = segmenter.classify(encoded, WORDS, method=METHODS)
    assert list(several) == METHODS
    for method in METHODS:
        same(several[method], segmenter(image, WORDS, method=method))
        same(segmenter.classify(encoded, WORDS, method=method), several[method])
    assert several["vanilla"].info["method"] == "vanilla"
    same(segmenter.classify(encoded, WORDS, method="gem"), segmenter(image, WORDS, method="gem"))
    same(segmenter.classify(encoded, WORDS, method=clearclip.METHODS["clearclip"]), several["clearclip"])


def test_classify_runs_no_more_than_it_must(segmenter, image):
    with counted(segmenter.backbone) as counts:
        encoded = segmenter.encode(image)
        once = dict(counts)
        assert set(once) == set(range(7))
        segmenter.classify(encoded, WORDS)
        segmenter.classify(encoded, ["other", "words"], method=METHODS)
        assert counts == once  # other words and other last-block methods: only the rewritten block
        segmenter.classify(encoded, WORDS, method=["gem", "gem+clearclip"])
        again = dict(counts)
        assert again == {block: 2 * times for block, times in once.items()}  # GEM's own position table
        segmenter.classify(encoded, ["new", "word"], method=["gem", "clearclip"])
        assert counts == again


def test_encoding_for_a_method_runs_its_trunk_alone(segmenter, image):
    with counted(segmenter.backbone) as counts:
        encoded = segmenter.encode(image, method=["gem", "gem+clearclip"])
        once = dict(counts)
        found = segmenter.classify(encoded, WORDS, method="gem")
        assert counts == once
        assert set(once.values()) == {1}
    same(found, segmenter(image, WORDS, method="gem"))


def test_windows_are_cut_a_few_at_a_time(segmenter, image, monkeypatch):
    expected = segmenter([image, image[:70]], WORDS)
    monkeypatch.setattr("clearclip.encode.encoding.WINDOWS_AT_ONCE_ON_A_CPU", 3)
    for result, one in zip(segmenter([image, image[:70]], WORDS), expected, strict=True):
        same(result, one)


def test_thresholds_and_background(segmenter, image):
    plain = segmenter(image, ["sky", "grass", "horse"])
    limit = float(np.median(plain.scores))
    result = segmenter(image, ["sky", "grass", "horse"], threshold=limit)
    assert result.labels == ("background", "sky", "grass", "horse")
    np.testing.assert_array_equal(result.label_map == 0, plain.scores < limit)
    kept = result.label_map > 0
    np.testing.assert_array_equal(result.label_map[kept] - 1, plain.label_map[kept])
    np.testing.assert_array_equal(result.scores, plain.scores)
    assert not result.probabilities("background").any()
    own = clearclip.Vocabulary.parse(["sky", "grass", "horse"], background="grass")
    marked = segmenter(image, own, threshold=limit)
    assert marked.labels == ("sky", "grass", "horse")
    np.testing.assert_array_equal(marked.label_map, np.where(plain.scores < limit, 1, plain.label_map))
    same(segmenter(image, own), plain)  # the protocol has no threshold
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="probability from 0 to 1"):
            segmenter(image, WORDS, threshold=bad)
    encoded = segmenter.encode(image)
    several = segmenter.classify(encoded, WORDS, method=["vanilla", "clearclip"], threshold={"clearclip": 0.9})
    assert several["clearclip"].labels[0] == "background"
    assert several["vanilla"].labels[0] == "sky"


def test_the_protocols_threshold_holds_where_there_is_a_background(backbone, image):
    segmenter = clearclip.Segmenter(backbone, device="cpu", protocol="voc21", templates="{}", cache=False)
    segmenter.protocol = segmenter.protocol.with_overrides(short_side=64, crop_size=64, stride=32)
    plain = segmenter(image, ["sky", "grass"])
    assert plain.labels == ("sky", "grass")
    marked = segmenter(image, clearclip.Vocabulary.parse(["sky", "grass", "tree"], background="rest"))
    np.testing.assert_array_equal(marked.label_map == 0, marked.scores < 0.5)
    assert marked.info["threshold"] == "0.5"


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 31)])
def test_extreme_images(segmenter, size):
    result = segmenter(np.full((*size, 3), 90, dtype=np.uint8), WORDS)
    assert result.label_map.shape == size
    assert np.isfinite(result.scores).all()
    assert result.overlay().width >= size[1]


def test_templates_may_be_changed(backbone, image):
    segmenter = clearclip.Segmenter(backbone, device="cpu", templates="{}", cache=False)
    before = segmenter.embed(["sky"])
    segmenter.templates = ("a photo of a {}.",)
    other = clearclip.Segmenter(backbone, device="cpu", templates="a photo of a {}.", cache=False)
    assert torch.equal(segmenter.embed(["sky"]), other.embed(["sky"]))
    assert not torch.equal(before, segmenter.embed(["sky"]))


def test_saving(segmenter, image, tmp_path):
    result = segmenter(image, WORDS)
    result.save(str(tmp_path / "a.PNG"))
    with Image.open(tmp_path / "a.PNG") as written:
        assert written.text["method"] == "clearclip"
        assert written.text["software"].startswith("clearclip ")
    with pytest.raises(ValueError, match=r"saved as \.png"):
        result.save(tmp_path / "a.jpg")
    assert result.overlay(legend=False).size == (130, 90)
    assert result.overlay().height > 90
    np.testing.assert_array_equal(np.asarray(result.overlay(opacity=0, legend=False))[5, 5], image[5, 5])


def test_logits_refuse_other_shapes(segmenter):
    text = segmenter.embed(["sky"])
    with pytest.raises(UsageError, match="images have the shape"):
        segmenter.logits(torch.zeros(3, 32, 32), text)
    with pytest.raises(UsageError, match=r"\(Q, 48\) is needed"):
        segmenter.logits(torch.zeros(1, 3, 32, 32), torch.zeros(1, 7))
    with pytest.raises(UsageError, match="stride"):
        segmenter.logits(torch.zeros(1, 3, 32, 32), text, crop_size=16, stride=32)
    assert segmenter.logits(torch.zeros(2, 3, 32, 40), text).shape == (2, 1, 32, 40)


def test_blip_and_hugging_face_segment(blip_model, word_pieces, clip_model, image):
    from transformers import AutoTokenizer

    blip = clearclip.view(blip_model, AutoTokenizer.from_pretrained(word_pieces))
    for backbone in (blip, clearclip.view(tiny_models.hf_clip_of(clip_model))):
        segmenter = clearclip.Segmenter(backbone, device="cpu", templates="a {}", cache=False)
        assert segmenter(image, ["sky", "horse"]).label_map.shape == (90, 130)
    # BLIP's windows are squares of the crop size, whatever the image.
    encoded = clearclip.Segmenter(blip, device="cpu", templates="a {}", cache=False).encode(image[:20])
    assert encoded.windows.shape[1:] == (3, 64, 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "clearclop"}, "did you mean 'clearclip'"),
        ({"protocol": "papper"}, "did you mean 'paper'"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"templates": "a photo"}, "template"),
        ({"method": "gem[depth=9]"}, "has 8"),
    ],
)
def test_wrong_options(backbone, options, said):
    with pytest.raises(UsageError, match=said):
        clearclip.Segmenter(backbone, **{"device": "cpu", **options})


def test_wrong_options_are_refused_before_a_model_is_loaded():
    for options in ({"method": "x"}, {"protocol": "x"}, {"dtype": "x", "device": "cpu"}, {"templates": "x"}):
        with pytest.raises(UsageError, match="'x'"):
            clearclip.load("/absent/model.pth", **options)


def test_a_method_of_a_call_may_be_too_deep():
    backbone = clearclip.view(tiny_models.open_clip_model(vision={"layers": 2}))
    segmenter = clearclip.Segmenter(backbone, device="cpu", templates="{}", cache=False)
    with pytest.raises(UsageError, match="depth=6"):
        segmenter(np.zeros((9, 9, 3), dtype=np.uint8), ["a", "b"], method="gem")


def test_words_need_a_tokenizer(image):
    model = tiny_models.open_clip_model(text={"vocab_size": 64, "context_length": 16}, vision={"layers": 1})
    segmenter = clearclip.Segmenter(clearclip.view(model), device="cpu", cache=False)
    with pytest.raises(UnsupportedModelError, match="cannot read words"):
        segmenter(image, ["sky"])
    logits = segmenter.logits(torch.zeros(1, 3, 40, 40), torch.eye(48)[:3])
    assert logits.shape == (1, 3, 40, 40)


def test_prepared_words_give_what_labels_give(segmenter, backbone, image):
    words = segmenter.prepare(WORDS, threshold=0.3, templates="a drawing of a {}.")
    other = clearclip.Segmenter(backbone, templates="a drawing of a {}.", cache=False, device="cpu", dtype="float32")
    same(segmenter(image, words), other(image, WORDS, threshold=0.3))
    same(segmenter.classify(segmenter.encode(image), words), other(image, WORDS, threshold=0.3))
    assert segmenter(image, words).info == other(image, WORDS, threshold=0.3).info


def test_prepared_words_are_used_only_as_they_were_prepared(segmenter, backbone, image):
    words = segmenter.prepare(WORDS)
    for more in ({"threshold": 0.4}, {"threshold": 0.0}):
        with pytest.raises(UsageError, match="to prepare"):
            segmenter(image, words, **more)
        with pytest.raises(UsageError, match="to prepare"):
            segmenter.classify(segmenter.encode(image), words, **more)
    protocol = replace(segmenter.protocol, logit_scale=40.0)
    others = [
        clearclip.Segmenter(backbone, protocol=protocol, cache=False, device="cpu", dtype="float32"),
        clearclip.load("tiny", device="cpu"),
    ]
    for other in others:
        with pytest.raises(UsageError, match="another model or protocol"):
            other(image, words)


def told_apart(segmenter, labels, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vocabulary = segmenter.prepare(labels, **options).vocabulary
    return {label.name: label.synonyms for label in vocabulary.labels}, [str(one.message) for one in caught]


@pytest.mark.parametrize(
    "twins", [("Tree", "tree"), ("tree", "TREE "), ("traffic_light", "traffic light"), ("tree", "tre\u200be")]
)
def test_labels_that_the_model_cannot_tell_apart_are_refused(segmenter, twins):
    with pytest.raises(UsageError, match="are the same to this model") as caught:
        segmenter.prepare([Label("sky"), *map(Label, twins)])
    assert all(repr(twin) in str(caught.value) for twin in twins)


def test_a_synonym_that_is_another_label_is_left_to_it(segmenter):
    kept, said = told_apart(segmenter, ["person=Man|woman|WOMAN", "sky=air", "man", "cloud=Air|Sky|Woman"])
    assert kept == {"person": ("woman",), "sky": ("air",), "man": (), "cloud": ()}
    (sentence,) = said
    words = (("Man", "person", "man"), ("Air", "cloud", "sky"), ("Sky", "cloud", "sky"), ("Woman", "cloud", "person"))
    for part in (f"{word!r} of {label!r} is {owner!r}" for word, label, owner in words):
        assert part in sentence
    assert told_apart(segmenter, ["person=man|woman", "sky"]) == ({"person": ("man", "woman"), "sky": ()}, [])


def test_a_background_without_words_takes_no_word(segmenter):
    vocabulary = Vocabulary.parse(["sky=rest|air", "tree"], background="Rest")
    kept, said = told_apart(segmenter, vocabulary, threshold=0.5)
    assert kept == {"Rest": (), "sky": ("rest", "air"), "tree": ()}
    assert not said


@pytest.mark.parametrize(
    ("labels", "threshold", "warns"),
    [
        (["sky"], 0.9, True),
        (["sky"], 0.0, False),
        (["sky", "tree"], 0.4, True),
        (["sky", "tree"], 0.5, True),
        (["sky", "tree"], 0.51, False),
        (["sky=blue|grey", "tree"], 0.26, False),
    ],
)
def test_a_threshold_that_no_pixel_can_be_below_is_said(segmenter, labels, threshold, warns):
    if not warns:
        segmenter.vocabulary(labels, threshold)
        return
    with pytest.warns(UserWarning, match="gives no background: the likeliest of") as said:
        segmenter.vocabulary(labels, threshold)
    assert ("--background auto" in str(said[0].message)) is (labels == ["sky"])


def test_a_model_object_is_told_what_to_do(clip_model):
    for use in (clearclip.Segmenter, lambda model: clearclip.dense_features(model, None)):
        with pytest.raises(UsageError, match=r"open_clip.* is no backbone: give clearclip.view\(model\)"):
            use(clip_model)


def test_a_result_is_short_to_look_at_and_a_picture_in_a_notebook(segmenter, picture):
    result = segmenter(picture(), ["sky", "tree"])
    assert len(repr(result)) < 120
    assert repr(result).startswith("Segmentation(56 × 40 pixels, 2 labels: ")
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert max(shown.size) <= 1000


def test_words_stay_while_other_threads_fill_the_memory(segmenter, monkeypatch):
    monkeypatch.setattr("clearclip.segmenter.EMBEDDED", 3)
    failed = []

    def ask(first):
        try:
            for number in range(12):
                words = [f"word {first + number}", "sky"]
                assert segmenter.embed(words).shape[0] == 2
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 20, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert np.array_equal(segmenter.embed(["sky"]), segmenter.embed(["tree", "sky"])[1:])
