"""Training lowers the loss, goes on after an interruption with the same numbers, exports what open_clip reads."""

import dataclasses
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from clearclip.scenes import HELD_OUT, PARTS
from tools.tiny.crops import Album, draw_batch, render_album
from tools.tiny.recipe import Recipe
from tools.tiny.train import (
    Trainer,
    Views,
    contrastive_loss,
    encode_text_trimmed,
    encode_views,
    learning_rate,
    rewrite_queries,
    scale_norms,
)

TINY = Path(__file__).parents[2] / "src" / "clearclip" / "backbones" / "tiny"
SMALL = Recipe(
    steps=12,
    batch_size=16,
    learning_rate=3e-3,
    warmup=2,
    kept=0.5,
    full_share=0.2,
    pictures=24,
    picture_size=(40, 48),
    image_size=32,
    width=32,
    head_width=16,
    layers=2,
    text_width=32,
    text_layers=1,
    embed_dim=16,
    bfloat16=False,
)


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    return render_album(folder, pictures=24, size=(40, 48), portraits=0.25, workers=1)


def run(folder, recipe, album, **options):
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    logging.disable(logging.WARNING)
    try:
        trainer = Trainer(folder, recipe, album=album)
        return trainer, [loss for _, loss in trainer.run(**options)]
    finally:
        logging.disable(logging.NOTSET)


def test_training_lowers_the_loss(tmp_path, album):
    recipe = dataclasses.replace(SMALL, steps=60)
    _, losses = run(tmp_path, recipe, album)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60


def test_resumed_equals_uninterrupted(tmp_path, album):
    whole, losses = run(tmp_path / "whole", SMALL, album)
    _, first = run(tmp_path / "parts", SMALL, album, until=5)
    parts, second = run(tmp_path / "parts", SMALL, album)
    assert first + second == losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_another_recipe_is_refused(tmp_path, album):
    run(tmp_path, SMALL, album, until=1)
    with pytest.raises(ValueError, match=r"other values of width, zoom"):
        run(tmp_path, dataclasses.replace(SMALL, width=64, zoom=2.0), album)


def test_export_is_read_by_open_clip(tmp_path, album):
    trainer, _ = run(tmp_path, SMALL, album, until=2)
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a red car", "some grass and a tree by day"])
    with torch.no_grad():
        mine = trainer.model.eval().encode_text(tokens)
        torch.testing.assert_close(model.eval().encode_text(tokens), mine, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(encode_text_trimmed(trainer.model, tokens), mine)


def test_crops_say_what_is_in_view(album):
    options = {"batch_size": 16, "side": 3, "grid": 5, "patch_size": 8, "zoom": 4.0, "named": 3, "share": 0.03}
    batch = draw_batch(album, np.random.default_rng(1), **options)
    again = draw_batch(album, np.random.default_rng(1), **options)
    assert batch.images.shape == (16, 24, 24, 3)
    assert (batch.images == again.images).all()
    assert batch.captions == again.captions
    assert batch.corners.min() >= 0
    assert batch.corners.max() <= 2
    assert not any(re.search(rf"{colour} {name}\b", text) for colour, name in HELD_OUT for text in batch.captions)


def test_pairs_are_balanced_over_words():
    """A word in one of ten pictures is named about as often as one in the nine others."""
    instances = np.zeros((10, 40, 48), dtype=np.uint8)
    instances[:, :, 24:] = 1
    phrases = [("grass", "tree")] * 9 + [("grass", "red ball")]
    parts = np.zeros_like(instances)
    album = Album(np.zeros((10, 40, 48, 3), np.uint8), instances, parts, phrases, ["day"] * 10)
    options = {"side": 4, "grid": 5, "patch_size": 8, "zoom": 2.0, "named": 3, "share": 0.1, "ground_share": 1.0}
    captions = draw_batch(album, np.random.default_rng(0), batch_size=600, **options).captions
    trees, balls, grass = (sum(word in text for text in captions) for word in ("tree", "ball", "grass"))
    assert trees < 2 * balls
    assert trees + balls + grass == 600, "grass is named only where nothing else is in view"
    assert 0.1 < grass / 600 < 0.35
    named = draw_batch(album, np.random.default_rng(0), batch_size=600, **{**options, "ground_share": 0.0}).captions
    assert sum("grass" in text for text in named) > 2 * grass


def test_captions_know_parts_and_other_words():
    instances = np.zeros((1, 40, 48), dtype=np.uint8)
    parts = np.zeros_like(instances)
    parts[:, :20], parts[:, 20:] = PARTS.index("wall") + 1, PARTS.index("door") + 1
    album = Album(np.zeros((1, 40, 48, 3), np.uint8), instances, parts, [("red house",)], ["day"])
    assert list(album.pictures_by_word) == ["door", "house", "wall"]
    options = {"batch_size": 200, "side": 4, "grid": 4, "patch_size": 8, "zoom": 1.0, "named": 3, "share": 0.1}
    texts = draw_batch(album, np.random.default_rng(0), **options, other=0.5).captions
    counts = {word: sum(word in text for text in texts) for word in ("door", "wall", "red house", "red building")}
    assert min(counts["door"], counts["wall"]) > 60
    assert min(counts["red house"], counts["red building"]) > 10
    assert not any("building" in text for text in draw_batch(album, np.random.default_rng(0), **options).captions)


def test_a_whole_view_is_what_open_clip_encodes(tmp_path, album):
    trainer, _ = run(tmp_path, SMALL, album, until=1)
    model = trainer.model.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encode_views(model, Views(images, torch.zeros(2, 2, dtype=torch.long), 4))
        torch.testing.assert_close(whole, model.encode_image(images))


def test_stochastic_depth_of_the_class_token(tmp_path, album):
    model = Trainer(tmp_path, SMALL, album=album).model.eval()
    visual, last = model.visual, model.visual.transformer.resblocks[-1]
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = Views(images, torch.zeros(16, 2, dtype=torch.long), 4)
    entered = []
    last.ln_1.register_forward_hook(lambda module, inputs, output: entered.append((inputs[0], output)))
    with torch.no_grad():
        usual = encode_views(model, views)
        late = encode_views(model, views, late=1.0)
        (usual_tokens, _), (tokens, _) = entered
        first = visual.ln_pre(visual.class_embedding + visual.positional_embedding[0])
    torch.testing.assert_close(tokens[:, 1:], usual_tokens[:, 1:])
    entered_last = (tokens[:, 0] == first).all(dim=1)
    assert 0 < entered_last.sum() < 16, "of two blocks either is drawn"
    torch.testing.assert_close(tokens[~entered_last, 0], usual_tokens[~entered_last, 0])
    torch.testing.assert_close(late[~entered_last], usual[~entered_last])
    assert not torch.allclose(late[entered_last], usual[entered_last])


def test_rewritten_weights_change_no_output(tmp_path, album):
    trainer = Trainer(tmp_path, SMALL, album=album)
    model, images = trainer.model.eval(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, block = model.encode_image(images), f"visual.transformer.resblocks.{SMALL.layers - 1}"
        norm = model.state_dict()[f"{block}.ln_1.weight"].clone()
        weights = rewrite_queries(model.state_dict(), recipe=SMALL)
        for head in weights[f"{block}.attn.in_proj_weight"][: SMALL.width].split(SMALL.head_width):
            torch.testing.assert_close(head @ head.T, SMALL.query_scale**2 * torch.eye(SMALL.head_width))
        model.load_state_dict(weights)
        torch.testing.assert_close(model.encode_image(images), before)
        model.load_state_dict(scale_norms(weights, recipe=SMALL))
        torch.testing.assert_close(model.encode_image(images), before)
        torch.testing.assert_close(model.state_dict()[f"{block}.ln_1.weight"], SMALL.norm_scale * norm)


def test_album_is_kept(tmp_path):
    options = {"pictures": 3, "size": (16, 20), "portraits": 0.0, "workers": 1}
    first = render_album(tmp_path, **options)
    stamp = (tmp_path / "images.u8").stat().st_mtime_ns
    again = render_album(tmp_path, **options)
    assert (tmp_path / "images.u8").stat().st_mtime_ns == stamp
    assert (first.images == again.images).all()
    assert first.phrases == again.phrases
    assert len(again) == 3


def test_schedule_and_loss():
    rates = [learning_rate(step, SMALL) for step in range(13)]
    assert rates[1] == max(rates) == SMALL.learning_rate
    assert rates[12] == pytest.approx(0.0)
    perfect = torch.eye(4)
    assert contrastive_loss(perfect, perfect, torch.tensor(50.0)) < 1e-6
    shuffled = perfect[torch.tensor([1, 0, 3, 2])]
    assert contrastive_loss(perfect, shuffled, torch.tensor(50.0)) > 10
