"""What is kept and what runs: the calls are counted in the model itself."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip.errors import ImageError, UsageError
from clearclip.methods import parse_method
from clearclip.service.models import Models, held_bytes
from clearclip.service.request import Limits, read_request
from clearclip.studio import export
from clearclip.studio.html import status_line

LABELS = ["sky", "grass", "house", "tree"]


@pytest.fixture
def models():
    return Models({"tiny": "tiny"}, devices=("cpu",))


@pytest.fixture
def image(photo):
    return photo(height=96, width=120)


def ask(labels=LABELS, **settings):
    return read_request(labels, **{"limits": Limits(), "model": "tiny", "device": "cpu", **settings})


@pytest.fixture
def calls(models):
    """How often the patch embedding, each block's first norm and the text tower ran since the last look."""
    loaded = models.model("tiny", "cpu")
    seen = Counter()
    visual = loaded.backbone.model.visual
    visual.conv1.register_forward_hook(lambda *_: seen.update(["embed"]))
    for index, block in enumerate(visual.transformer.resblocks):
        block.ln_1.register_forward_hook(lambda *_, index=index: seen.update([f"block {index}"]))
    loaded.backbone.model.transformer.register_forward_hook(lambda *_: seen.update(["text"]))

    def look():
        found = dict(seen)
        seen.clear()
        return found

    return look


def test_new_words_run_no_encoder_and_another_method_only_its_last_block(models, image, calls):
    first = models.segment(image, ask())
    assert first.encoder_passes == 1
    assert {"embed", *(f"block {index}" for index in range(12)), "text"} == set(calls())

    relabelled = models.segment(image, ask(["sky", "sea", "ship"]))
    assert relabelled.encoder_passes == 0
    assert set(calls()) == {"text"}

    for change in ({"labels": ["sky=ship", "sea"]}, {"threshold": 0.6}, {"labels": ["sky @#ff0000", "sea"]}):
        models.segment(image, ask(**{"labels": ["sky", "sea"], **change}))
        assert not calls(), change

    for method in ("sclip", "maskclip", "vanilla", "clearclip[residual=beta:30]"):
        assert models.segment(image, ask(method=method)).encoder_passes == 0
        assert set(calls()) == {"block 11"}, method

    models.segment(image, ask(method="sclip"))
    models.segment(image, ask())
    assert not calls(), "what was asked before is kept"


def test_a_method_with_another_position_table_reads_the_image_once_more(models, image, calls):
    models.segment(image, ask())
    calls()
    assert models.segment(image, ask(method="gem")).encoder_passes == 1
    calls()
    assert models.segment(image, ask(["sky", "sea"], method="gem")).encoder_passes == 0
    assert not set(calls()) - {"text"}


def test_same_result_as_the_library(models, image):
    expected = clearclip.load("tiny", device="cpu", method="sclip")(Image.open(image), LABELS, threshold=0.3)
    for full in (True, False):
        answer = models.segment(image, ask(method="sclip", threshold=0.3), full=full)
        assert (answer.first.label_map == expected.label_map).all()
        assert answer.first.labels == expected.labels
        assert answer.size == (96, 120)


def test_a_large_image_is_shown_smaller_and_exported_whole(models, photo):
    image = photo(height=1100, width=1500)
    view, whole = models.segment(image, ask()), models.segment(image, ask(), full=True)
    assert view.first.label_map.shape == (751, 1024)
    assert view.first.image.shape == (751, 1024, 3)
    assert whole.first.label_map.shape == view.size == (1100, 1500)
    assert whole.encoder_passes == 0
    small = whole.first.label_map[np.linspace(0, 1099, 751).astype(int)][:, np.linspace(0, 1499, 1024).astype(int)]
    assert (small == view.first.label_map).mean() > 0.95


def test_prompts_matter_and_do_not_leak(models, image):
    plain, eighty = ask(templates=["{}"]), ask()
    first = models.segment(image, plain).first.probabilities("sky")
    other = models.segment(image, eighty).first.probabilities("sky")
    assert not np.array_equal(first, other)
    assert np.array_equal(models.segment(image, plain).first.probabilities("sky"), first)


def test_the_cache_is_bounded_and_keyed_by_content(photo):
    one = photo("one.png", height=96, width=120)
    probe = Models({"tiny": "tiny"}, devices=("cpu",))
    probe.segment(one, ask())
    room = 3 * probe.held
    models = Models({"tiny": "tiny"}, devices=("cpu",), limits=Limits(cache_bytes=room))
    for seed in range(12):
        models.segment(photo(f"{seed}.png", height=96, width=120, seed=seed), ask())
        assert models.held <= room
    assert models.segment(photo("other-name.png", height=96, width=120, seed=11), ask(["sea"])).encoder_passes == 0
    assert models.segment(photo("first.png", height=96, width=120, seed=0), ask(["sea"])).encoder_passes == 1
    tight = Models({"tiny": "tiny"}, devices=("cpu",), limits=Limits(cache_bytes=10))
    assert tight.segment(one, ask()).first.labels == tuple(LABELS)
    assert tight.held == 0


def test_a_file_that_changes_is_another_image(models, photo):
    image = photo("x.png", height=96, width=120)
    before = models.segment(image, ask()).first.label_map
    photo("x.png", height=96, width=120, seed=5)
    assert not np.array_equal(models.segment(image, ask()).first.label_map, before)


def test_only_allowed_models_and_devices(models, image):
    with pytest.raises(UsageError, match="model 'clip-b16' is not allowed here"):
        models.segment(image, replace(ask(), model="clip-b16"))
    with pytest.raises(UsageError, match="device 'meta' is not allowed here"):
        models.segment(image, replace(ask(), device="meta"))


def test_models_in_memory_are_bounded():
    models = Models(dict.fromkeys("abc", "tiny"), devices=("cpu",), limits=Limits(models=2))
    first = models.model("a", "cpu")
    assert models.model("a", "cpu") is first
    models.model("b", "cpu"), models.model("c", "cpu")
    assert models.model("a", "cpu") is not first


def test_images_over_the_limit_or_gone(photo, tmp_path):
    models = Models({"tiny": "tiny"}, devices=("cpu",), limits=Limits(pixels=5000))
    with pytest.raises(ImageError, match=r"photo.png has 120×96 .* limit of 5,000: make it smaller") as caught:
        models.segment(photo(height=96, width=120), ask())
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match="upload it again"):
        models.segment(Path(tmp_path / "gone.png"), ask())


def test_files_over_the_limit_are_not_opened(photo):
    models = Models({"tiny": "tiny"}, devices=("cpu",), limits=Limits(upload_bytes=100))
    image = photo(height=96, width=120)
    with pytest.raises(ImageError, match=rf"photo.png has {image.stat().st_size:,} bytes, more than the limit of 100"):
        models.segment(image, ask())
    with pytest.raises(ImageError, match="limit of 100"):
        models.inspect(image, ask(), method=parse_method("vanilla"))


def test_too_many_methods(models, image):
    rows = [parse_method(f"clearclip[residual=beta:{beta}]") for beta in range(13)]
    with pytest.raises(UsageError, match="13 methods"):
        models.segment(image, ask(), methods=rows)


def test_unknown_words_are_named(models, image):
    labels = ["sky", "sofa", "red cars", "red elephant"]
    assert models.segment(image, ask(labels)).unknown == ("sofa", "red elephant")


def test_search_finds_what_the_library_finds(models, image, calls):
    models.segment(image, ask())
    calls()
    words = ["sky", "grass", "house=home|hut", "car", "moon"]
    heard = []
    found = models.search(image, ask(), words, say=lambda share, sentence: heard.append((share, sentence)))
    assert set(calls()) <= {"text"}
    assert heard
    result = clearclip.load("tiny", device="cpu")(Image.open(image), words)
    shares = {name: (result.label_map == index).mean() for index, name in enumerate(result.labels)}
    assert {tag.label: tag.share for tag in found} == {name: share for name, share in shares.items() if share}
    for tag in found:
        assert tag.probability == pytest.approx(result.scores[result.mask(tag.label)].mean(), abs=1e-5)


def test_inspection_is_kept(models, image, calls):
    method = parse_method("vanilla")
    seen = models.inspect(image, ask(), method=method)
    assert calls()
    assert models.inspect(image, ask(), method=method) is seen
    assert not calls()


def test_held_bytes_counts_each_array_once():
    array = np.zeros(1000, dtype=np.uint8)
    assert held_bytes({"a": array, "b": [array, (array,)]}) == 1001


def test_a_word_may_be_a_label_and_a_synonym_of_another(models, image):
    with pytest.warns(UserWarning, match="'grass' of 'sky' is 'grass'"):
        assert models.segment(image, ask(["sky=grass|house", "grass"])).first.labels == ("sky", "grass")


def test_a_guessed_range_is_told_and_one_that_was_said_is_in_the_lines(photo, tmp_path):
    eight = np.asarray(Image.open(photo(height=40, width=56)).convert("L"))
    deep = tmp_path / "deep.png"
    Image.fromarray(eight.astype(np.uint16) * 16).save(deep)
    request = ask(["sky", "grass"])
    guessed = Models({"tiny": "tiny"}, devices=("cpu",)).segment(deep, request)
    assert "uint16 values: 0 to 4095 was taken" in guessed.note
    assert guessed.note.partition(" (")[0] in status_line(guessed, model="tiny", methods="clearclip")
    said = Models({"tiny": "tiny"}, devices=("cpu",), value_range=(0, 4080)).segment(deep, request)
    assert said.note == ""
    assert np.array_equal(said.first.image[..., 0], eight)
    lines = export.lines(request, image="deep.png", source="tiny", method="clearclip", value_range=(0, 4080))
    assert "--range 0:4080" in lines.command
    assert "value_range=(0, 4080)" in lines.python
