"""Words → embeddings: equal to the libraries' own, cached, and never cut silently."""

from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import clearclip
import tiny_models
from clearclip import UsageError
from clearclip.encode import text
from clearclip.encode.text import embed_queries, imagenet_templates, read_templates
from clearclip.files.hashes import default_cache_dir

WORDS = ["sky", "horse", "a man with a very long red umbrella", "jet ski!"]
SEVERAL = ["{}", "a photo of a {}.", "itap of the {} in a video game, seen from rather far away"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch):
    """Counts the queries that really go through the text tower."""
    asked = []
    original = text._encode
    monkeypatch.setattr(
        text,
        "_encode",
        lambda backbone, encoder, queries: asked.extend(queries) or original(backbone, encoder, queries),
    )
    return asked


def ensemble(encode, templates):
    """Protocol, step 5: normalised prompts, their mean, normalised."""
    with torch.no_grad():
        rows = [F.normalize(encode([t.replace("{}", word) for t in templates]), dim=-1).mean(0) for word in WORDS]
        return F.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("templates", [SEVERAL, list(imagenet_templates())], ids=["three", "eighty"])
@pytest.mark.parametrize(
    ("kind", "tower"),
    [
        (open_clip.CLIP, {}),
        (open_clip.CustomTextCLIP, {}),
        (open_clip.CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last", "pad_id": 0}),
        (open_clip.CustomTextCLIP, {"embed_cls": True, "pad_id": 0}),
        (open_clip.CustomTextCLIP, {"proj_bias": True, "pool_type": "first"}),
        (open_clip.CustomTextCLIP, {"pool_type": "eos", "eos_id": 49407}),
        (open_clip.CustomTextCLIP, {"pool_type": "last"}),
        (open_clip.CustomTextCLIP, {"proj_type": "none", "width": 48, "heads": 3}),
    ],
    ids=str,
)
def test_open_clip_words(kind, tower, templates):
    if len(templates) > 3 and tower:
        templates = templates[:7]
    model = tiny_models.open_clip_model(kind, text=tower, vision={"layers": 1})
    words = open_clip.SimpleTokenizer()
    expected = ensemble(lambda prompts: model.encode_text(words(prompts)), templates)
    ours = embed_queries(clearclip.view(model), WORDS, templates=templates)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_hf_clip_words(tmp_path, clip_model):
    model = tiny_models.hf_clip_of(clip_model)
    words = AutoTokenizer.from_pretrained(tiny_models.save_clip_words(tmp_path))

    def encode(prompts):
        batch = words(prompts, padding="max_length", max_length=77, return_tensors="pt")
        return model.text_projection(model.text_model(**batch).pooler_output)

    for tokenizer in (words, None):
        ours = embed_queries(clearclip.view(model, tokenizer), WORDS, templates=SEVERAL)
        torch.testing.assert_close(ours, ensemble(encode, SEVERAL), rtol=0, atol=1e-6)


def test_blip_words(blip_model, word_pieces):
    words = AutoTokenizer.from_pretrained(word_pieces)
    templates = ["{}", "a photo of a {}."]

    def encode(prompts):
        batch = words(prompts, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        hidden = blip_model.text_encoder(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        return blip_model.text_proj(hidden[:, 0])

    backbone = clearclip.view(blip_model, words)
    short = ["sky", "horse", "horses", "red sky!"]
    ours = embed_queries(backbone, short, templates=templates)
    with torch.no_grad():
        rows = [F.normalize(encode([t.replace("{}", word) for t in templates]), dim=-1).mean(0) for word in short]
    torch.testing.assert_close(ours, F.normalize(torch.stack(rows), dim=-1), rtol=0, atol=1e-6)
    # The library's own score of an image and a text is the cosine of the two embeddings.
    pixels, batch = torch.randn(1, 3, 32, 32), words(["sky"], return_tensors="pt")
    with torch.no_grad():
        score = blip_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels, use_itm_head=False
        ).itm_score
        image = blip_model.vision_proj(blip_model.vision_model(pixels).last_hidden_state[:, 0])
    alone = embed_queries(backbone, ["sky"], templates="{}")
    torch.testing.assert_close(F.normalize(image, dim=-1) @ alone.T, score, rtol=1e-5, atol=1e-5)


def test_embeddings_do_not_depend_on_company(backbone):
    together = embed_queries(backbone, WORDS, templates=SEVERAL)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(len(WORDS)))
    assert together.dtype == torch.float32
    for index, word in enumerate(WORDS):
        torch.testing.assert_close(
            embed_queries(backbone, [word], templates=SEVERAL)[0], together[index], rtol=0, atol=1e-6
        )
    twice = embed_queries(backbone, ["sky", "horse", "sky"], templates=SEVERAL)
    assert torch.equal(twice[0], twice[2])


def test_the_eighty_templates():
    assert len(imagenet_templates()) == 80
    assert read_templates(None) == imagenet_templates()
    assert "a bad photo of a {}." in imagenet_templates()
    assert read_templates("a {}") == ("a {}",)
    assert read_templates(["a {}", "the {}"]) == ("a {}", "the {}")


@pytest.mark.parametrize("templates", [[], "a photo", ["a {}", "none"], "{} and {}"])
def test_templates_that_are_refused(templates):
    with pytest.raises(UsageError, match="template"):
        read_templates(templates)


def test_templates_and_order_matter(backbone):
    one, other = (embed_queries(backbone, ["sky"], templates=each) for each in ("{}", "a photo of a {}."))
    assert not torch.allclose(one, other, atol=1e-3)
    both = F.normalize((one + other) / 2, dim=-1)
    torch.testing.assert_close(embed_queries(backbone, ["sky"], templates=["{}", "a photo of a {}."]), both)


def test_too_long_a_label_is_named(backbone, blip_model, word_pieces):
    long = "umbrella " * 80
    with pytest.raises(UsageError, match=r"umbrella.*tokens, the model reads 77.*nothing is cut"):
        embed_queries(backbone, ["sky", long.strip()], templates="a photo of a {}.")
    fits = "umbrella " * 75
    assert embed_queries(backbone, [fits.strip()], templates="{}").shape == (1, 48)
    with pytest.raises(UsageError, match="too long"):
        embed_queries(backbone, [f"{fits.strip()} umbrella"], templates="{}")
    with pytest.raises(UsageError, match=r"'x{40}'.*the model reads 35"):
        embed_queries(
            clearclip.view(blip_model, AutoTokenizer.from_pretrained(word_pieces)), ["x" * 40], templates="{}"
        )


def files(cache):
    return sorted(cache.rglob("*.safetensors"))


def test_cache_hits_and_misses(backbone, cache, encoded):
    first = embed_queries(backbone, WORDS, templates=SEVERAL, cache_dir=cache)
    assert len(files(cache)) == len(encoded) == len(WORDS)
    again = embed_queries(backbone, WORDS[::-1], templates=SEVERAL, cache_dir=cache)
    assert len(encoded) == len(WORDS)
    assert torch.equal(first.flip(0), again)
    embed_queries(backbone, [*WORDS, "new"], templates=SEVERAL, cache_dir=cache)
    assert len(encoded) == len(WORDS) + 1
    embed_queries(backbone, WORDS[:1], templates=SEVERAL[::-1], cache_dir=cache)
    assert len(encoded) == len(WORDS) + 2


def variants():
    return {
        "weights": clearclip.view(tiny_models.open_clip_model(seed=8, vision={"layers": 1})),
        "activation": clearclip.view(tiny_models.open_clip_model(quick_gelu=False, vision={"layers": 1})),
        "heads": clearclip.view(tiny_models.open_clip_model(text={"heads": 4}, vision={"layers": 1})),
        "dtype": clearclip.view(tiny_models.open_clip_model(vision={"layers": 1})).to(
            torch.device("cpu"), torch.float64
        ),
    }


@pytest.mark.parametrize("change", ["weights", "activation", "heads", "dtype"])
def test_another_model_misses_the_cache(cache, encoded, change):
    """The same weights in a model of another activation or head count are another model."""
    embed_queries(clearclip.view(tiny_models.open_clip_model(vision={"layers": 1})), ["sky"], cache_dir=cache)
    other = variants()[change]
    with_cache = embed_queries(other, ["sky"], cache_dir=cache)
    assert len(encoded) == 2
    assert torch.equal(with_cache, embed_queries(other, ["sky"]))


def test_the_same_model_hits_the_cache_in_another_session(cache, encoded):
    for _ in range(2):
        embed_queries(clearclip.view(tiny_models.open_clip_model(vision={"layers": 1})), ["sky"], cache_dir=cache)
    assert len(encoded) == 1


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def other_numbers(file):
    save_file({"embedding": torch.ones(48)}, file, metadata={"sha256": "0" * 64})


DAMAGE = {
    "flipped bit": flip_a_bit,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("hello"),
    "other numbers": other_numbers,
    "no checksum": lambda file: save_file({"embedding": torch.ones(48)}, file),
    "other name": lambda file: save_file({"other": torch.ones(48)}, file),
    "other shape": lambda file: save_file(load_file(file) | {"embedding": torch.ones(2)}, file),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_made_again(backbone, cache, encoded, damage):
    expected = embed_queries(backbone, ["sky"], templates="{}", cache_dir=cache)
    DAMAGE[damage](files(cache)[0])
    assert torch.equal(embed_queries(backbone, ["sky"], templates="{}", cache_dir=cache), expected)
    assert len(encoded) == 2
    assert torch.equal(embed_queries(backbone, ["sky"], templates="{}", cache_dir=cache), expected)
    assert len(encoded) == 2


def test_an_interrupted_run_keeps_what_it_has(backbone, cache, encoded, monkeypatch):
    monkeypatch.setattr(text, "QUERIES_AT_ONCE", 16)
    words = [f"thing {index}" for index in range(2 * 16 + 3)]
    original = text._encode

    def stop_at_the_third(backbone, encoder, queries):
        if len(encoded) >= 2 * 16:
            raise KeyboardInterrupt
        return original(backbone, encoder, queries)

    with monkeypatch.context() as patched:
        patched.setattr(text, "_encode", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            embed_queries(backbone, words, templates="{}", cache_dir=cache)
    assert len(files(cache)) == 2 * 16
    done = len(encoded)
    embed_queries(backbone, words, templates="{}", cache_dir=cache)
    assert len(encoded) - done == 3
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".safetensors"]


@pytest.mark.filterwarnings("always")
def test_a_cache_that_cannot_be_written_is_no_obstacle(backbone, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        embedded = embed_queries(backbone, ["sky", "horse"], templates="{}", cache_dir=blocked)
    assert embedded.shape == (2, 48)
    assert len({str(warning.message) for warning in caught}) == 1
    assert all(warning.filename == __file__ for warning in caught)


def test_a_cache_that_cannot_be_read_is_no_obstacle(backbone, cache, monkeypatch):
    from pathlib import Path

    expected = embed_queries(backbone, ["sky"], templates="{}", cache_dir=cache)
    original = Path.is_file

    def refuse(self):
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return original(self)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert torch.equal(embed_queries(backbone, ["sky"], templates="{}", cache_dir=cache), expected)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARCLIP_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("CLEARCLIP_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "clearclip"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("templates", [("{}",), None], ids=["one prompt", "80 prompts"])
def test_an_embedding_is_the_same_in_any_company(dtype, templates, tmp_path):
    """To the last bit, so that a result does not depend on what lay in the cache."""
    words = ["sky", "grass", "a red car", "tree", "house", "boat on the water"]
    together = clearclip.load("tiny", device="cpu", dtype=dtype, templates=templates).embed(words)
    alone = clearclip.Segmenter(
        clearclip.load_backbone("tiny"), device="cpu", dtype=dtype, templates=templates, cache=False
    )
    for word, embedding in zip(words, together, strict=True):
        assert torch.equal(alone.embed([word])[0], embedding)
    assert torch.equal(alone.embed(["road", *words[::-1]]).flip(0)[:-1], together)


def test_a_tokenizer_that_fails_is_one_line(clip_model):
    backbone = clearclip.view(clip_model)
    whole, encoder = backbone.text.tokenize, backbone.text
    for tokenize, told in (
        (lambda texts: [[*row, 999_999] for row in whole(texts)], "which the model's vocabulary lacks"),
        (lambda texts: [[] for _ in texts], "gives no ids for"),
        (lambda texts: {}["x"], "the tokenizer fails over"),
    ):
        backbone.text = replace(encoder, tokenize=tokenize)
        with pytest.raises(clearclip.CheckpointError, match=told):
            clearclip.Segmenter(backbone, cache=False, templates=["{}"]).embed(["sky"])
