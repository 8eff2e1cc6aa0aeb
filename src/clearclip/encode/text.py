"""Queries → text embeddings: the prompt ensemble, trimmed batches, and a cache that fills query by query."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clearclip.backbones.base import Backbone, TextEncoder
from clearclip.backbones.devices import inference
from clearclip.errors import CheckpointError, UsageError
from clearclip.files.progress import track
from clearclip.files.writing import atomic_write
from clearclip.vocabulary import SHOWN, WORD_BYTES, Vocabulary, spoken

BATCH_SIZE = 40
FEW_PROMPTS = 8
FILLED = 16
PROMPTS_AT_ONCE = 1280
QUERIES_AT_ONCE = 256
TEMPLATES = 1000
"""Most prompts a word may be put into."""

TemplatesLike = str | Sequence[str] | None


@cache
def imagenet_templates() -> tuple[str, ...]:
    """The 80 ImageNet prompts of CLIP, as open_clip lists them; `{}` is the label's place."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def read_templates(templates: TemplatesLike) -> tuple[str, ...]:
    """At least one prompt, the paper's 80 for `None`; `UsageError` where one has no place for the label."""
    if templates is None:
        return imagenet_templates()
    listed = (templates,) if isinstance(templates, str) else tuple(templates)
    if not listed:
        raise UsageError("no template was given: give at least '{}'")
    if len(listed) > TEMPLATES:
        raise UsageError(f"{len(listed):,} templates were given: {TEMPLATES:,} are allowed")
    for template in listed:
        if len(template) > WORD_BYTES:
            raise UsageError(f"template {template[:60]!r} is longer than {WORD_BYTES:,} letters: shorten it")
        if template.count("{}") != 1:
            raise UsageError(
                f"template {template!r} needs exactly one {{}} where the label goes, as in 'a photo of a {{}}.'"
            )
    return listed


def distinct(vocabulary: Vocabulary, encoder: TextEncoder) -> Vocabulary:
    """The vocabulary without synonyms whose tokens are another label's word, which a warning names.

    Two labels whose names have the same tokens are a `UsageError`: rounding would decide between them.
    """
    queries = list(dict.fromkeys(vocabulary.queries))
    tokens = dict(zip(queries, map(tuple, encoder.ids(queries)), strict=True))
    unasked = None if vocabulary.asks_background else vocabulary.background
    asked = [label for label in vocabulary.labels if label.name != unasked]
    owners: dict[tuple[int, ...], str] = {}
    for label in asked:
        if (first := owners.setdefault(tokens[spoken(label.name)], label.name)) != label.name:
            raise UsageError(
                f"labels {first[:60]!r} and {label.name[:60]!r} are the same to this model (their tokens are equal): "
                "give one of them, or other words"
            )
    kept: dict[str, dict[tuple[int, ...], str]] = {label.name: {} for label in asked}
    taken = []
    for label, word in ((one, word) for one in asked for word in one.synonyms):
        if (owner := owners.setdefault(tokens[spoken(word)], label.name)) == label.name:
            kept[owner].setdefault(tokens[spoken(word)], word)
        else:
            taken.append(f"{word[:60]!r} of {label.name[:60]!r} is {owner[:60]!r}")
    if taken:
        more = f" and {len(taken) - SHOWN} more" if taken[SHOWN:] else ""
        warnings.warn(
            f"a word that is another label's to this model (its tokens are equal) is left to that label: "
            f"{'; '.join(taken[:SHOWN])}{more}",
            UserWarning,
            stacklevel=4,
        )
    labels = (
        replace(one, synonyms=tuple(kept[one.name].values())) if one.name in kept else one for one in vocabulary.labels
    )
    return replace(vocabulary, labels=tuple(labels))


@inference
def embed_queries(
    backbone: Backbone,
    queries: Sequence[str],
    *,
    templates: TemplatesLike = None,
    cache_dir: Path | None = None,
    show_progress: bool | None = None,
) -> Tensor:
    """Text embeddings of queries (protocol, step 5): normalised per prompt, averaged, normalised again.

    `(Q, E)` float32 on the backbone's device. An entry of the cache is named by the weights, the tokens of the prompts
    (and so the tokenizer, the query and the templates) and the number format. `UnsupportedModelError` if the model
    reads no words, `UsageError` if a query does not fit its context: nothing is cut silently.
    """
    encoder = backbone.require_text()
    prompts = read_templates(templates)
    tokens = {query: _tokenize(encoder, query, prompts) for query in dict.fromkeys(queries)}
    _warn_unknown(encoder, tokens)
    entries = {query: _entry(backbone, encoder, ids, cache_dir) for query, ids in tokens.items()}
    found = {query: _read(entry, backbone.embed_dim) for query, entry in entries.items() if entry is not None}
    embedded = {query: embedding for query, embedding in found.items() if embedding is not None}
    missing = [query for query in tokens if query not in embedded]
    at_once = max(1, min(PROMPTS_AT_ONCE // len(prompts), QUERIES_AT_ONCE))
    groups = [missing[start : start + at_once] for start in range(0, len(missing), at_once)]
    for group in track(groups, "Reading words", show=show_progress):
        for query, embedding in zip(group, _encode(backbone, encoder, [tokens[query] for query in group]), strict=True):
            embedded[query] = embedding
            _write(entries[query], embedding)
    return torch.stack([embedded[query] for query in queries]).to(backbone.device)


def _tokenize(encoder: TextEncoder, query: str, templates: Iterable[str]) -> list[list[int]]:
    texts = [template.replace("{}", query) for template in templates]
    rows = encoder.ids(texts)
    longest = max(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[longest]) > encoder.context_length:
        raise UsageError(
            f"label {query[:60]!r} is too long: in the prompt {texts[longest][:60]!r} it takes {len(rows[longest])} "
            f"tokens, the model reads {encoder.context_length}. Shorten it; nothing is cut silently"
        )
    return rows


def _warn_unknown(encoder: TextEncoder, queries: Iterable[str]) -> None:
    unknown = encoder.unknown(queries)
    if unknown:
        more = f" and {len(unknown) - SHOWN:,} more of these words" if len(unknown) > SHOWN else ""
        warnings.warn(
            f"the model has never seen {', '.join(map(repr, unknown[:SHOWN]))}{more}: expect nothing of "
            f"{'it' if len(unknown) == 1 else 'them'}",
            UserWarning,
            stacklevel=4,
        )


def _encode(backbone: Backbone, encoder: TextEncoder, queries: Sequence[list[list[int]]]) -> list[Tensor]:
    """One embedding a query: its prompts' unit embeddings, averaged, of unit length."""
    encoded = [torch.empty(len(prompts), backbone.embed_dim) for prompts in queries]
    for places in _batches(queries):
        rows = [queries[query][prompt] for query, prompt in places]
        ids = torch.full((len(rows), max(map(len, rows))), encoder.pad_id)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = True
        try:
            features = encoder.encode(ids.to(backbone.device), mask.to(backbone.device))
        except IndexError as error:
            raise CheckpointError(
                f"{backbone.name}: the tokenizer gives the id {int(ids.max())}, which the model's vocabulary lacks: "
                "give the model's own"
            ) from error
        for (query, prompt), embedding in zip(places, F.normalize(features.float(), dim=-1).cpu(), strict=True):
            encoded[query][prompt] = embedding
    if not all(prompts.isfinite().all() and prompts.any(dim=-1).all() for prompts in encoded):
        raise CheckpointError(
            f"{backbone.name}: it makes a word an embedding without a direction: its weights are damaged"
        )
    return [F.normalize(prompts.mean(dim=0), dim=-1) for prompts in encoded]


def _batches(queries: Sequence[list[list[int]]]) -> Iterator[list[tuple[int, int]]]:
    """Query and prompt of the rows that go through the tower together, of similar length.

    A batch's shape depends on no other query: numbers are rounded differently in other shapes, so an embedding would
    depend on which words were asked for with it, or lay in the cache (1e-3 in bfloat16).
    """
    few: dict[int, list[tuple[int, int]]] = {}
    for query, prompts in enumerate(queries):
        order = sorted(range(len(prompts)), key=lambda prompt: len(prompts[prompt]))
        if len(prompts) < FEW_PROMPTS:
            for prompt in order:
                few.setdefault(len(prompts[prompt]), []).append((query, prompt))
            continue
        for start in range(0, len(order), BATCH_SIZE):
            yield [(query, prompt) for prompt in order[start : start + BATCH_SIZE]]
    for places in few.values():  # of equal length, filled up with copies
        for start in range(0, len(places), FILLED):
            chosen = places[start : start + FILLED]
            yield chosen + chosen[-1:] * (FILLED - len(chosen))


def _entry(backbone: Backbone, encoder: TextEncoder, tokens: list[list[int]], cache_dir: Path | None) -> Path | None:
    if cache_dir is None:
        return None
    key = f"{backbone.text_fingerprint()} {backbone.dtype} {encoder.pad_id} {tokens}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return cache_dir / "text" / digest[:2] / f"{digest}.safetensors"


def _checksum(entry: Path, embedding: Tensor) -> str:
    """Of an embedding and of what it is of, so that a file under another's name is none."""
    return hashlib.sha256(entry.stem.encode() + embedding.contiguous().numpy().tobytes()).hexdigest()


def _read(entry: Path, embed_dim: int) -> Tensor | None:
    """A cached embedding; `None` where there is none or it is damaged."""
    try:
        if not entry.is_file():
            return None
        with safe_open(str(entry), "pt") as opened:
            embedding: Tensor = opened.get_tensor("embedding")
            checksum = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    intact = (
        embedding.shape == (embed_dim,) and embedding.dtype == torch.float32 and checksum == _checksum(entry, embedding)
    )
    return embedding if intact else None


def _write(entry: Path | None, embedding: Tensor) -> None:
    if entry is None:
        return
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(entry) as path:
            path.write_bytes(save({"embedding": embedding}, metadata={"sha256": _checksum(entry, embedding)}))
    except OSError as error:
        warnings.warn(
            f"the text cache {entry.parents[1]} cannot be written ({error.strerror}); words are read anew each time",
            stacklevel=4,
        )
