"""Backbone, Block and TextEncoder: a thin view of another library's ViT. Adapters fill it in; nothing is copied.

Blocks before the rewritten ones run as the library runs them (`Block.forward`); the rewritten ones are read through
`ln_1`, `project`, `out_proj`, `ln_2` and `mlp`, which call the library's own modules and weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearclip.backbones.positions import resize_positions
from clearclip.errors import CheckpointError, UnsupportedModelError, UsageError
from clearclip.files.hashes import file_hash
from clearclip.protocol import CLIP_MEAN, CLIP_STD

Map = Callable[[Tensor], Tensor]
Linear = tuple[Tensor, Tensor | None]
"""Weight and bias."""
CLIP_VOCABULARY = 49_408


@dataclass(frozen=True)
class Block:
    """One pre-norm transformer block of the viewed model; out_proj and mlp include its layer scales.

    Attributes:
        forward: The library's own block, `(B, N, C) → (B, N, C)`; it is told the grid, for rotary positions.
        qkv: For each of `"q"`, `"k"`, `"v"` a function that returns weight `(C, C)` and bias `(C,)`. Functions, since a
            model's tensors change identity when it moves to another device.
        norms: For `"q"` and `"k"` the norm of each head's channels, where the block has one.
        rotate: Turns q or k `(B, heads, N, head_dim)` by their places on a grid, where positions are rotary.
    """

    forward: Callable[[Tensor, tuple[int, int]], Tensor]
    ln_1: Map
    qkv: Mapping[str, Callable[[], Linear]]
    out_proj: Map
    ln_2: Map
    mlp: Map
    norms: Mapping[str, Map] = field(default_factory=dict)
    rotate: Callable[[Tensor, tuple[int, int]], Tensor] | None = None

    def project(self, name: str, normed: Tensor, *, heads: int, grid_size: tuple[int, int]) -> Tensor:
        """q, k or v of the normed tokens `(B, N, C)`, as the block's attention sees them: `(B, heads, N, head_dim)`."""
        weight, bias = self.qkv[name]()
        part = F.linear(normed, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        if name in self.norms:
            part = self.norms[name](part)
        return part if self.rotate is None or name == "v" else self.rotate(part, grid_size)


def packed_qkv(read: Callable[[], Linear]) -> dict[str, Callable[[], Linear]]:
    """`Block.qkv` of a block that keeps the three in one weight `(3C, C)` and bias `(3C,)`."""

    def part(index: int) -> Linear:
        weight, bias = read()
        return weight.chunk(3)[index], None if bias is None else bias.chunk(3)[index]

    return {name: partial(part, index) for index, name in enumerate("qkv")}


def check_vocabulary(entries: int, vocabulary: int) -> None:
    """Refuse a tokenizer whose ids the model's embedding may lack."""
    if entries > vocabulary:
        raise UnsupportedModelError(
            f"the tokenizer has {entries} entries, the model's vocabulary {vocabulary}: give the model's own"
        )


@dataclass(frozen=True)
class TextEncoder:
    """The viewed model's text tower and its tokenizer.

    Attributes:
        tokenize: Texts → token ids with the special tokens, neither cut nor padded.
        encode: Ids `(B, L)` and mask `(B, L)` (true where there is a token) → `(B, E)`, not normalised. L is the
            longest of the batch: the adapter must give the same embeddings as at the full context.
        pad_id: Id that fills shorter texts.
        modules: Where the weights are, for the fingerprint, as `tokenizer`.
        known_words: The words the model was trained with, lower case, where the checkpoint lists them.
    """

    tokenize: Callable[[list[str]], list[list[int]]]
    encode: Callable[[Tensor, Tensor], Tensor]
    context_length: int
    pad_id: int
    modules: tuple[nn.Module | nn.Parameter | None, ...]
    known_words: frozenset[str] | None = None
    tokenizer: object = None

    def ids(self, texts: list[str]) -> list[list[int]]:
        """As `tokenize`; `CheckpointError` where a damaged tokenizer fails, in any way that its library has."""
        try:
            rows = self.tokenize(texts)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the tokenizer fails over {texts[0][:60]!r} ({reason}): give another one") from error
        if not all(rows):
            raise CheckpointError(f"the tokenizer gives no ids for {texts[0][:60]!r}: give another one")
        return rows

    def unknown(self, queries: Iterable[str]) -> tuple[str, ...]:
        """Queries whose last word the model never saw (a plural's s aside), if the checkpoint lists its words."""
        if self.known_words is None:
            return ()
        words = {query: query.lower().split()[-1] for query in queries}
        return tuple(query for query, word in words.items() if not {word, word.removesuffix("s")} & self.known_words)

    def fingerprint(self) -> str:
        """Hash of the tower's weights (dtype included) and settings: another activation or ε makes another tower."""
        modules = [module for module in self.modules if isinstance(module, nn.Module)]
        settings = [f"{module} {_settings(module)}" for module in modules]
        weights = _hash_tensors(
            tensor
            for module in self.modules
            if module is not None
            for tensor in (module.state_dict().values() if isinstance(module, nn.Module) else (module,))
        )
        return hashlib.sha256("\n".join((*settings, weights)).encode()).hexdigest()


@dataclass
class Backbone:
    """A CLIP-family ViT seen through one interface.

    Attributes:
        name: What `load` was called with, or the model's class.
        width: Channels C of the stream.
        embed_dim: Channels E of the text space.
        patch_size: Side of a patch in pixels.
        native_grid: `(gh, gw)` the position table was trained for.
        embed_patches: Images `(B, 3, H, W)` → patch embeddings `(B, C, gh, gw)`.
        prefix_tokens: Returns `(P, C)`, what stands before the patches: nothing, a class token, registers.
        position_table: Returns `(R + N, C)` for the native grid's N patches; R prefix tokens have positions.
        head: `ln_post` and the projection into the text space, `(…, C) → (…, E)`.
        no_text: Why `text` is `None`.
        mean: The checkpoint's pixel mean, in units of 0–1, as `std`.
        position_resize: How the paper resizes this family's position table: `"offset"` or `"size"`.
        square_windows: Whether windows are resized to squares instead of padded (BLIP).
        weights_files: Files the weights came from; none for a model object.
    """

    name: str
    model: nn.Module
    blocks: list[Block]
    heads: int
    width: int
    embed_dim: int
    patch_size: int
    native_grid: tuple[int, int]
    embed_patches: Map
    prefix_tokens: Callable[[], Tensor]
    position_table: Callable[[], Tensor]
    ln_pre: Map
    head: Map
    text: TextEncoder | None = None
    no_text: str = "it has no tokenizer: pass one, as in clearclip.view(model, tokenizer)"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    position_resize: str = "offset"
    square_windows: bool = False
    weights_files: tuple[Path, ...] = ()
    license: str | None = None
    _tables: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)
    _loaded: tuple[object, object] = field(default=(None, None), repr=False)
    _hashes: dict[str, tuple[object, str]] = field(default_factory=dict, repr=False)

    @property
    def num_prefix_tokens(self) -> int:
        """How many tokens stand before the patch tokens."""
        return len(self.prefix_tokens())

    @property
    def native_size(self) -> int:
        """Native image side in pixels (the shorter one)."""
        return min(self.native_grid) * self.patch_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position_table().device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.position_table().dtype

    @property
    def checkpoint_hash(self) -> str:
        """SHA-256 of the weights: of their file where they came from one, else of the tensors."""
        return self._once("checkpoint", self._hash_weights)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the backbone that decides a result, whatever its name and folder.

        Weights, architecture with its numbers that no weight shows (activation, heads, ε), pixel mean and deviation,
        tokenizer.
        """
        return self._once("all", self._hash_all)

    def _hash_weights(self) -> str:
        if not self.weights_files or (self._state(), self._stamps()) != self._loaded:
            return _hash_tensors(self.model.state_dict().values())
        hashes = [file_hash(file) for file in self.weights_files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def _hash_all(self) -> str:
        parts: list[object] = [self.checkpoint_hash, str(self.model), _settings(self.model)]
        parts += [self.heads, self.patch_size, self.native_grid, self.position_resize, self.square_windows]
        parts += [self.mean, self.std]
        if self.text is not None:
            parts += [self.text.context_length, self.text.pad_id, _tokenizer_rules(self.text.tokenizer)]
            parts += [sorted(self.text.known_words or ())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _state(self) -> tuple[object, ...]:
        """Changes whenever a weight does, as far as torch counts that."""
        return tuple((tensor.data_ptr(), tensor._version) for tensor in self.model.state_dict().values())

    def _stamps(self) -> list[tuple[int, int, int]]:
        """Changes where a weights file is no longer the one that was loaded."""
        with suppress(OSError):
            return [(s.st_size, s.st_mtime_ns, s.st_ino) for s in map(os.stat, self.weights_files)]
        return []

    def _once(self, name: str, make: Callable[[], str]) -> str:
        """A hash, made again only where the model has changed since."""
        state = (self._state(), self.mean, self.std)
        if name not in self._hashes or self._hashes[name][0] != state:
            self._hashes[name] = (state, make())
        return self._hashes[name][1]

    def check(self) -> Backbone:
        """The backbone itself; `CheckpointError` for NaN, infinity, the meta device or a deviation of 0."""
        for name, values in (("mean", self.mean), ("deviation", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise CheckpointError(f"{self.name}: its pixel {name} is {values}: three finite numbers are needed")
        if min(self.std) <= 0:
            raise CheckpointError(f"{self.name}: its pixel deviation is {self.std}: numbers above 0 are needed")
        for name, tensor in self.model.state_dict().items():
            if tensor.is_meta:
                raise CheckpointError(f"{self.name}: its weights {name} are on the meta device, which holds no numbers")
            # The sum is quicker to see through, and infinite or no number wherever a part is.
            if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
                raise CheckpointError(f"{self.name}: its weights {name} hold infinite numbers or NaN: it is damaged")
        self._loaded = self._state(), self._stamps()
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        """Move the viewed model, in place, as `torch.nn.Module.to` does."""
        loaded, stamps = self._loaded
        as_loaded = self._state() == loaded
        self.model.to(device=device, dtype=dtype)
        self._tables.clear()
        self._hashes.clear()
        if as_loaded:
            self._loaded = self._state(), stamps
        return self

    def text_fingerprint(self) -> str:
        """Hash of the text tower alone, for the cache of embeddings: the vision weights do not change it."""
        return self._once("text", self.require_text().fingerprint)

    def require_text(self) -> TextEncoder:
        """The text tower; `UnsupportedModelError` says why there is none."""
        if self.text is None:
            raise UnsupportedModelError(f"{self.name} gives features but cannot read words: {self.no_text}")
        return self.text

    def positions(self, grid_size: tuple[int, int], how: str) -> Tensor:
        """Position table `(R + gh · gw, C)` for a grid, made once per size; how is a method's axis `positions`."""
        resolved = self.table_kind(grid_size, how)
        table = self.position_table()
        key = (grid_size, resolved, table.data_ptr(), table._version)
        if key not in self._tables:
            if len(self._tables) >= 64:
                self._tables.clear()
            self._tables[key] = resize_positions(table.detach(), grid_size, native=self.native_grid, how=resolved)
        return self._tables[key]

    def table_kind(self, grid_size: tuple[int, int], how: str) -> str:
        """Which table a method uses: its axis `positions`, or `"native"` where all but CLIPer's rounded one agree."""
        if grid_size == self.native_grid and how != "bilinear16":
            return "native"
        return self.position_resize if how == "model" else how

    def embed(self, images: Tensor, how: str) -> Tensor:
        """Input of the first block, `(B, num_prefix_tokens + gh · gw, C)`.

        images are `(B, 3, H, W)`, normalised, H and W multiples of the patch size; how is a method's axis `positions`.
        """
        if images.shape[3] == self.patch_size:
            # oneDNN's bfloat16 convolution is NaN where its output is one column wide (torch 2.14 on a CPU with AMX).
            patches = self.embed_patches(torch.cat([images, images], dim=3))[..., :1]
        else:
            patches = self.embed_patches(images)
        tokens = patches.flatten(2).transpose(1, 2)
        prefix = self.prefix_tokens().to(tokens.dtype)
        positions = self.positions((patches.shape[2], patches.shape[3]), how).to(tokens.dtype)
        placed = len(positions) - tokens.shape[1]  # registers may have no position
        prefix = prefix + F.pad(positions[:placed], (0, 0, 0, len(prefix) - placed))
        return self.ln_pre(torch.cat([prefix.expand(len(tokens), -1, -1), tokens + positions[placed:]], dim=1))


def _settings(module: nn.Module) -> list[tuple[str, str, object]]:
    """The plain attributes of a module and all within it, which its `repr` leaves out (the number of heads)."""
    return [
        (place, name, value)
        for place, part in module.named_modules()
        for name, value in sorted(vars(part).items())
        if isinstance(value, (bool, int, float)) and name != "training" and not name.startswith("_")
    ]


def _tokenizer_rules(tokenizer: Any) -> list[object]:
    """All that decides how a tokenizer of open_clip or transformers cuts a text: its vocabulary and its rules."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's wrapper cleans texts before
    named = [type(tokenizer).__name__, type(inner).__name__]
    named += [f"{getattr(getattr(tokenizer, 'clean_fn', None), '__name__', None)}"]
    named += [f"{getattr(tokenizer, name, None)}" for name in ("strip_sep_token", "tokenizer_mode", "context_length")]
    fast = getattr(inner, "backend_tokenizer", None)
    if fast is not None:
        rules = json.loads(fast.to_str()) | {"truncation": None, "padding": None}  # those change with each call
        return [*named, json.dumps(rules), sorted(inner.special_tokens_map.items(), key=str)]
    vocabulary = inner.get_vocab() if hasattr(inner, "get_vocab") else getattr(inner, "encoder", {})
    return [*named, sorted(vocabulary.items()), list(getattr(inner, "bpe_ranks", ()))]


def _hash_tensors(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_backbone(backbone: object) -> None:
    """`UsageError` for something else, such as another library's model, in a backbone's place."""
    if not isinstance(backbone, Backbone):
        kind = f"{type(backbone).__module__}.{type(backbone).__qualname__}"
        raise UsageError(f"a {kind} is no backbone: give clearclip.view(model), or what load_backbone returns")
