"""Where a model computes and in which number format."""

import pytest
import torch

import clearclip
from clearclip.backbones import devices

CPU = torch.device("cpu")


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_what_the_processor_computes_with(monkeypatch, units, expected):
    monkeypatch.setattr(devices, "has_bfloat16_units", lambda: units)
    assert devices.pick_dtype("auto", CPU) == expected
    assert devices.pick_dtype("auto", torch.device("cuda")) == torch.float16
    assert devices.pick_dtype("auto", torch.device("mps")) == torch.float32
    assert devices.pick_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)],
)
def test_units_are_read_from_torch(found, expected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
        assert devices.has_bfloat16_units() is expected
        patch.delattr(torch.cpu, "get_capabilities")
        assert devices.has_bfloat16_units() is False


def test_a_model_of_ones_own_keeps_its_weights(clip_model, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16_units", lambda: True)
    assert clearclip.Segmenter(clearclip.view(clip_model), device="cpu").backbone.dtype == torch.float32
    assert next(clip_model.parameters()).dtype == torch.float32
