"""The tokenizer: any text, every query in every template, and the end where open_clip looks for it."""

import csv
import json
from pathlib import Path

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearclip.scenes import CLASSES, COLOURS
from tools.tiny.words import CONTEXT_LENGTH, END, START, caption_corpus, make_tokenizer

TINY = Path(__file__).parents[2] / "src" / "clearclip" / "backbones" / "tiny"
QUERIES = Path(__file__).parents[2] / "src" / "clearclip" / "benchmarks" / "queries.csv"


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer(f"local-dir:{TINY}")


def test_every_query_fits_in_every_template(tokenizer):
    with QUERIES.open(encoding="utf-8") as file:
        queries = {row["query"] for row in csv.DictReader(file)}
    assert len(queries) > 200
    texts = [template(query) for query in queries for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    tokens = tokenizer(texts, context_length=4 * CONTEXT_LENGTH)
    assert int((tokens != 0).sum(dim=1).max()) <= CONTEXT_LENGTH


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40))  # no capitals newer than Python's tables
def test_any_text_is_encoded_without_loss(tokenizer, text):
    inner = tokenizer.tokenizer
    ids = inner(text)["input_ids"]
    assert ids[0] == inner.bos_token_id
    assert ids[-1] == inner.eos_token_id == max(ids)
    assert inner.pad_token_id == 0
    assert 0 not in ids or "<|pad|>" in text
    if "<|" not in text:
        import unicodedata

        decoded = inner.decode(ids, skip_special_tokens=True)
        wanted = unicodedata.normalize("NFC", text).lower()
        assert unicodedata.normalize("NFC", decoded.strip()) == unicodedata.normalize("NFC", wanted.strip())


def test_words_of_the_world_are_whole(tokenizer):
    for word in (*CLASSES, *COLOURS):
        assert len(tokenizer.tokenizer(word)["input_ids"]) == 3, word


def test_end_token_is_where_open_clip_pools(tokenizer):
    tokens = tokenizer(["a red car", "grass"])
    assert tokens.shape == (2, CONTEXT_LENGTH)
    assert tokens.argmax(dim=1).tolist() == [4, 2]


def test_making_it_again_gives_the_same(tmp_path):
    again = make_tokenizer(caption_corpus())
    again.save_pretrained(str(tmp_path))
    stored = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) == stored
    assert again.convert_tokens_to_ids([START, END]) == [len(again) - 2, len(again) - 1]
