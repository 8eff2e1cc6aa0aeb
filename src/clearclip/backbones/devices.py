"""Where a model computes and in which number format. torch alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from clearclip.errors import UsageError, nearest

P = ParamSpec("P")
R = TypeVar("R")


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """Compute without gradients, and in the model's own number format whatever `torch.autocast` the caller is in.

    Not for functions that return what is computed later, as generators do.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad(), ExitStack() as stack:
            for kind in ("cpu", "cuda", "mps", "xpu"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return call


def pick_device(device: str) -> torch.device:
    """The device of torch's name; `"auto"`: CUDA, then Apple's MPS, then the CPU. `UsageError` if it cannot be used."""
    if device != "auto":
        try:
            picked = torch.device(device)
            torch.ones(1, device=picked).item()  # the meta device makes tensors, but they hold no numbers
        except Exception as error:  # also of libraries that a device needs
            raise UsageError(
                f"device {device!r} cannot be used ({str(error).splitlines()[0][:200]}): try auto or cpu; a GPU "
                "is called cuda (NVIDIA, AMD) or mps (Apple)"
            ) from error
        return picked
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The number format of a name; `"auto"`: float16 on CUDA, bfloat16 on a CPU with units for it, else float32."""
    if dtype == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and has_bfloat16_units() else torch.float32
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise UsageError(f"dtype {dtype!r} is not known: {nearest(dtype, ('auto', *known))}")
    return known[dtype]


def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 natively (AVX-512 BF16, AMX), as far as torch can tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    found = ask() if ask is not None else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
