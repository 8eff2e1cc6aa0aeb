"""The attention kinds of the rewritten block: pure tensor functions of q, k and v. No model library.

Shapes: `q`, `k`, `v` are `(B, heads, N, head_dim)`; N counts the class token and the patch tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_switch = threading.Lock()
_users = 0
_before = True


@contextmanager
def fused_attention(tokens: Tensor) -> Iterator[None]:
    """Within the block, float32 attention modules on a CPU use torch's fused attention.

    In evaluation mode `torch.nn.MultiheadAttention` otherwise takes a path of its own that writes the whole attention
    matrix; both give the same numbers to rounding. The switch (`torch.backends.mha`) holds for the process, so users
    are counted: the last one out puts it back. Other devices and number formats keep the library's choice.

    Args:
        tokens: Tells device and number format.

    Yields:
        Nothing.
    """
    global _users, _before
    if tokens.device.type != "cpu" or tokens.dtype != torch.float32:
        yield
        return
    with _switch:
        if not _users:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _users += 1
    try:
        yield
    finally:
        with _switch:
            _users -= 1
            if not _users:
                torch.backends.mha.set_fastpath_enabled(_before)


def needed(kind: str) -> frozenset[str]:
    """Which of q, k and v a kind reads.

    Args:
        kind: `"qk"`, `"qq"`, `"kk"`, `"vv"` or `"identity"`.

    Returns:
        A subset of `{"q", "k", "v"}`; v is always in it.
    """
    return frozenset("v") if kind == "identity" else frozenset(kind) | {"v"}


def attend(kind: str, qkv: Mapping[str, Tensor]) -> Tensor:
    """One attention kind applied to v: `softmax(a bᵀ / sqrt(head_dim)) v`, or v itself for `identity`.

    Args:
        kind: As `needed`.
        qkv: The tensors that `needed(kind)` names.

    Returns:
        `(B, heads, N, head_dim)`.
    """
    if kind == "identity":
        return qkv["v"]
    attended: Tensor = F.scaled_dot_product_attention(qkv[kind[0]], qkv[kind[1]], qkv["v"])
    return attended


def attend_iterated(kind: str, qkv: Mapping[str, Tensor], temperature: Tensor) -> Tensor:
    """GEM's self-self attention of one projection s, applied to the original v (protocol: "GEM in full").

    `s ← s/|s|; s ← softmax(τ s sᵀ) s; s ← s/|s|; A = softmax(τ s sᵀ)`.

    Args:
        kind: `"qq"`, `"kk"` or `"vv"`.
        qkv: The tensors that `needed(kind)` names.
        temperature: τ, one an image, `(B,)`.

    Returns:
        `(B, heads, N, head_dim)`.
    """
    scale = temperature.to(qkv["v"].dtype).view(-1, 1, 1, 1)
    tokens = F.normalize(qkv[kind[0]], dim=-1)
    refined = F.scaled_dot_product_attention(tokens * scale, tokens, tokens, scale=1.0)
    tokens = F.normalize(refined, dim=-1)
    attended: Tensor = F.scaled_dot_product_attention(tokens * scale, tokens, qkv["v"], scale=1.0)
    return attended


def gem_temperature(normed: Tensor, head_dim: int) -> Tensor:
    """GEM's τ: the mean norm of an image's tokens over `sqrt(head_dim)`.

    Args:
        normed: `ln_1(x)`, `(B, N, C)`.
        head_dim: Channels of one head.

    Returns:
        `(B,)`.
    """
    norms: Tensor = torch.linalg.vector_norm(normed.float(), dim=-1)
    temperature: Tensor = norms.mean(dim=1) / head_dim**0.5
    return temperature
