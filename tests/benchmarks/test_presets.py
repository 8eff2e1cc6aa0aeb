"""Presets: a paper's method by its own protocol; every number is written here from `ladder/`, not from the table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import clearclip
from benchmark_cases import typed
from clearclip.benchmarks import (
    BENCHMARKS,
    evaluate,
    get_preset,
    open_benchmark,
    preset_names,
    published_number,
    records,
)
from clearclip.benchmarks.evaluation import Run
from clearclip.benchmarks.presets import _table, preset_for
from clearclip.errors import UsageError
from clearclip.methods import parse_method
from clearclip.protocol import Protocol
from tiny_models import open_clip_model

EIGHT = ("voc21", "context60", "coco_object", "voc20", "context59", "coco_stuff", "cityscapes", "ade20k")


def expected(*, scale=40, short=336, whole=False, thr=None, area=0.0):
    return Protocol(short, 2048, 0 if whole else 224, 112, "pixels", "drop", "clip", scale, thr, "none", area)


CITY = {"cityscapes": expected(short=560)}
SHARED = {
    "voc21": expected(whole=True, thr=0.1),
    "voc20": expected(whole=True),
    **dict.fromkeys(("context60", "coco_object"), expected(thr=0.1)),
    **dict.fromkeys(("context59", "coco_stuff", "ade20k"), expected()),
    **CITY,
}
"""NACLIP, ResCLIP and PEARL (`clip_only.md` 8)."""
WINDOWS = dict.fromkeys(("voc20", "context59", "coco_stuff", "ade20k"), expected()) | CITY


def freecp(redundancy, ambiguity, *, short=448, window=384):
    rule = f"freecp:{redundancy}:{ambiguity}"
    return Protocol(short, 2048, window, 112, "pixels", "drop", "clip", 100, None, rule, 0.0)


PROTOCOLS = {
    "naclip": SHARED,
    "naclip-plain": SHARED,
    "pearl": SHARED,
    "resclip": SHARED,
    "scclip": WINDOWS
    | {
        "voc21": expected(scale=50, thr=0.15, area=0.1),
        "context60": expected(thr=0.15),
        "coco_object": expected(scale=55, thr=0.35),
    },
    "scclip-l14": WINDOWS
    | {
        "voc21": expected(scale=40, thr=0.2, area=0.1),
        "context60": expected(thr=0.15),
        "coco_object": expected(scale=40, thr=0.25),
    },
    "sclip": WINDOWS
    | {
        "voc21": expected(scale=65, thr=0.1, area=0.1),
        "context60": expected(scale=50, thr=0.1),
        "coco_object": expected(scale=50, thr=0.1),
        "coco_stuff": expected(short=448),
    },
    "freecp": {
        "voc21": freecp(0.15, 0.8),
        "context60": freecp(0.1, 0.7),
        "coco_object": freecp(0.15, 0.8),
        "voc20": freecp(0.15, 0.7),
        "cityscapes": freecp(0.1, 0.8, short=560, window=224),
        "context59": freecp(0.1, 0.7),
        "ade20k": freecp(0.05, 0.7),
        "coco_stuff": freecp(0.05, 0.7),
    },
}
METHODS = {
    **{name: dict.fromkeys(EIGHT, name) for name in ("sclip", "scclip")},
    "scclip-l14": dict.fromkeys(EIGHT, "scclip"),
    "naclip": dict.fromkeys(EIGHT, "naclip[refine=pamr:10:8+16]"),
    "naclip-plain": dict.fromkeys(EIGHT, "naclip"),
    "pearl": dict.fromkeys(EIGHT, "pearl[refine=tlp:80]") | {"cityscapes": "pearl[refine=tlp:224]"},
    "freecp": dict.fromkeys(EIGHT, "clearclip"),
}
RESCLIP = {  # θ, λ of the mix, τ and λ of the second pass
    "voc21": (0.5, 0.3, 2.2, 0.7),
    "context60": (0.3, 0.3, 1.8, 0.7),
    "coco_object": (0.11, 0.4, 1.8, 0.7),
    "coco_stuff": (0.11, 0.4, 1.8, 0.7),
    "context59": (0.25, 0.4, 1.8, 0.7),
    "voc20": (0.1, 0.6, 2.1, 0.6),
    "cityscapes": (0.1, 0.2, 2.1, 0.6),
    "ade20k": (0.25, 0.3, 2.1, 0.7),
}
REFUSED = {
    "cliper": "whole patches",
    "cliper-windows": "whole patches",
    "resclip-l14": "do not say",
    "resclip-sclip": "do not say",
    "resclip-clearclip": "do not say",
    "freecp-sentences": "sentences",
}
PRINTED = {
    ("naclip", "clip-b16"): (64.07, 34.99, 36.19, 83.03, 38.35, 25.69, 38.27, 19.05),
    ("naclip-plain", "clip-b16"): (58.9, 32.2, 33.2, 79.7, 35.2, 23.3, 35.5, 17.4),
    ("naclip-plain", "clip-l14"): (52.2, 28.7, 29.9, 78.7, 32.1, 21.4, 31.4, 17.3),
    ("resclip", "clip-b16"): (61.1, 33.5, 35.0, 86.0, 36.8, 24.7, 35.9, 18.0),
    ("scclip", "clip-b16"): (64.6, 36.8, 37.7, 84.3, 40.1, 26.6, 41.0, 20.1),
    ("pearl", "clip-b16"): (64.1, 35.1, 37.3, 86.9, 38.6, 26.3, 37.6, 19.4),
}
OF_REFUSED = {
    ("resclip-l14", "clip-l14", "resclip"): (54.1, 30.9, 32.5, 85.5, 34.5, 23.4, 33.7, 18.2),
    ("resclip-sclip", "clip-b16", "sclip"): (60.7, 32.9, 34.3, 84.6, 35.8, 23.9, 34.4, 17.6),
    ("resclip-sclip", "clip-l14", "sclip"): (52.8, 28.7, 30.9, 83.9, 30.6, 21.2, 32.2, 15.8),
    ("resclip-clearclip", "clip-b16", "clearclip"): (59.0, 32.9, 34.0, 87.1, 36.4, 24.3, 34.5, 17.8),
    ("resclip-clearclip", "clip-l14", "clearclip"): (50.7, 29.8, 31.1, 84.2, 33.4, 22.3, 34.1, 17.9),
    ("freecp-sentences", "clip-b16", "clearclip"): (64.5, 35.7, 36.9, 81.5, 39.3, 26.1, 34.4, 18.9),
    ("freecp-sentences", "clip-b16", "gem"): (64.7, 35.5, 36.9, 80.6, 39.1, 25.8, 35.7, 17.8),
    ("freecp-sentences", "clip-b16", "sclip[residual=drop]"): (65.8, 35.3, 37.2, 84.3, 38.0, 24.9, 33.3, 18.4),
    ("freecp-sentences", "clip-b16", "maskclip[residual=drop]"): (64.4, 34.7, 36.2, 84.1, 36.6, 23.3, 32.5, 17.6),
    ("cliper", "clip-b16", "cliper"): (60.7, 34.7, 36.3, 84.3, 38.4, 25.4, 35.9, 19.8),
    ("cliper", "clip-l14", "cliper"): (62.5, 34.8, 40.4, 88.7, 39.6, 26.3, 37.9, 22.1),
    ("cliper-windows", "clip-b16", "cliper"): (62.1, 35.7, 37.5, 85.0, 39.6, 26.4, 38.3, 20.6),
    ("cliper-windows", "clip-l14", "cliper"): (64.0, 35.7, 41.4, 89.0, 40.9, 27.1, 39.4, 22.9),
}


def method_of(preset, name):
    if preset != "resclip":
        return METHODS[preset][name]
    theta, mixed, tau, share = RESCLIP[name]
    return f"resclip[mix=5-8:2.0:{mixed},temp_thd={theta},sfr_tau={tau},sfr_lambda={share},prior=gaussian:5,sfr_std=5]"


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.parametrize("preset", PROTOCOLS)
def test_presets_are_the_texts(preset, name):
    found, row = get_preset(preset, name), get_preset(preset, name).row()
    assert found.protocol == PROTOCOLS[preset][name]
    ours, theirs = parse_method(found.method), parse_method(method_of(preset, name))
    if preset == "resclip":  # its default, said
        ours = replace(ours, **{axis: getattr(theirs, axis) for axis in RESCLIP_AXES if getattr(ours, axis) is None})
    assert ours == theirs
    assert found.names == ("freecp" if preset == "freecp" else "sclip")
    assert (row.name, row.threshold(found.method)) == (f"{name}:{preset}", found.protocol.threshold)
    assert (found.protocol.threshold is None) == (preset == "freecp" or not BENCHMARKS[name].background)


RESCLIP_AXES = ("temp_thd", "sfr_tau", "sfr_lambda", "sfr_std")


def test_every_preset_is_pinned_or_refused():
    assert set(preset_names()) == set(PROTOCOLS) | set(REFUSED)
    assert set(_table()) == {(preset, name) for preset in preset_names() for name in EIGHT}


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.parametrize("preset", REFUSED)
def test_what_cannot_be_said_is_refused_with_its_reason(preset, name):
    with pytest.raises(UsageError, match=f"preset {preset} cannot be measured on {name}: .*{REFUSED[preset]}"):
        get_preset(preset, name)


def test_cliper_says_what_is_special_on_a_benchmark():
    for name, reason in (("coco_object", "val2014"), ("cityscapes", "left and a right half"), ("voc21", "templates")):
        with pytest.raises(UsageError, match=reason):
            get_preset("cliper", name)


def test_unknown_names():
    with pytest.raises(UsageError, match="did you mean 'naclip'"):
        get_preset("naclp", "voc21")
    with pytest.raises(UsageError, match="no numbers for scenes: it is for voc21"):
        get_preset("naclip", "scenes")
    with pytest.raises(UsageError, match="'voc22' is not known"):
        get_preset("naclip", "voc22")


def test_published_numbers_are_the_texts():
    for (preset, model), numbers in PRINTED.items():
        for name, number in zip(EIGHT, numbers, strict=True):
            found = get_preset(preset, name)
            assert published_number(found.row().name, model=model, method=found.method).miou == number
            assert published_number(name, model=model, method=found.method) is None
    for (preset, model, method), numbers in OF_REFUSED.items():
        for name, number in zip(EIGHT, numbers, strict=True):
            assert published_number(f"{name}:{preset}", model=model, method=method).miou == number


def test_large_models_have_their_own_numbers_where_there_are_any():
    for model in ("clip-l14", "ViT-L-14-quickgelu/openai"):
        assert preset_for("scclip", model) == preset_for("scclip-l14", model) == "scclip-l14"
        assert preset_for("naclip", model) == "naclip"
        assert preset_for("resclip", model) == "resclip"
    assert preset_for("scclip", "clip-b16") == preset_for("scclip", "local-dir:x") == "scclip"


@pytest.fixture(scope="module")
def base():
    """A random ViT of a B/16's depth and patches, and narrow."""
    vision = {"image_size": 224, "layers": 12, "width": 32, "head_width": 16, "patch_size": 16}
    return clearclip.view(open_clip_model(vision=vision, text={"width": 32, "layers": 1}))


@pytest.fixture
def run(monkeypatch, base):
    def load(model, *, method, protocol, **_):
        base.name = "ViT-B-16-quickgelu/openai"
        return clearclip.Segmenter(base, method=method, protocol=protocol, device="cpu", cache=False)

    return typed(monkeypatch, load)


@pytest.mark.parametrize("preset", ["naclip", "scclip", "pearl", "resclip", "freecp", "sclip"])
def test_a_preset_runs_as_it_stands(run, voc, tmp_path, preset):
    given = ("evaluate", "voc21", "--data", voc, "--limit", "1", "-o", tmp_path / "out", "--json", "--device", "cpu")
    ran = run(*given, "--preset", preset)
    (record,) = json.loads(ran.stdout)
    numbers = PROTOCOLS[preset]["voc21"]
    assert record["benchmark"] == f"voc21:{preset}"
    assert record["method"] == parse_method(method_of(preset, "voc21")).spelling.replace(",sfr_std=5", "")
    for name in ("short_side", "crop_size", "stride", "remainder", "logit_scale", "presence", "area"):
        assert record["config"]["protocol"][name] == getattr(numbers, name)
        value = getattr(numbers, name)
        assert f"{name}={f'{value:g}' if isinstance(value, float) else value}" in ran.stderr
    assert record["config"]["threshold"] == numbers.threshold
    assert f"threshold={numbers.threshold} " in ran.stderr
    assert record["config"]["labels"][0][:2] == ["sky", "wall"]
    assert not any("another" in warning for warning in record["warnings"])
    printed = PRINTED.get((preset, "clip-b16"))
    assert (record["published"] or {}).get("miou") == (printed and printed[0])
    assert (record["published"] or {}).get("difference") is None  # of one image


def test_all_numbers_of_the_method_are_said(run, voc, tmp_path):
    ran = run("evaluate", "voc21", "--data", voc, "--limit", "1", "-o", tmp_path / "out", "--preset", "scclip")
    assert "k=30,share=0.05,pre=8,temperature=3,post=3,beta=0.4,start=3,end=10,omega=0.3" in ran.stderr


@pytest.mark.parametrize(
    "given",
    [
        ("--method", "clearclip"), ("--names", "sclip"), ("--protocol", "paper"), ("--short-side", "448"),
        ("--crop-size", "0"), ("--stride", "16"), ("--remainder", "pad"), ("--threshold", "0.3"), ("--area", "0.1"),
        ("--presence", "weak"), ("--template", "{}"), ("--oracle-labels",),
    ],
)  # fmt: skip
def test_nothing_beside_a_preset(run, voc, tmp_path, given):
    with pytest.raises(UsageError, match=f"published row as it is, and {given[0]} would change it"):
        run("evaluate", "voc21", "--data", voc, "--preset", "naclip", "-o", tmp_path / "out", *given)


def test_a_preset_needs_a_benchmark(run, voc, tmp_path):
    with pytest.raises(UsageError, match="goes with one of the papers' benchmarks"):
        run("evaluate", "--images", voc, "--preset", "naclip", "-o", tmp_path / "out")


def test_a_published_number_stands_beside_its_own_protocol_alone(base, voc):
    base.name = "ViT-B-16-quickgelu/openai"
    preset = get_preset("naclip-plain", "voc21")
    dataset = open_benchmark("voc21", data=voc, preset=preset)

    def published(protocol=preset.protocol, threshold=None, **options):
        segmenter = clearclip.Segmenter(base, protocol=protocol, device="cpu", cache=False, **options)
        found = evaluate(segmenter, dataset, methods=preset.method, thresholds=threshold, run=Run(limit=1))
        return records(found)[0]["published"]

    assert published()["miou"] == 58.9
    assert published(protocol=replace(preset.protocol, logit_scale=41.0)) is None
    assert published(threshold=0.2) is None
    assert published(templates=["{}"]) is None


def test_a_word_of_two_labels_stays_both_in_a_preset(base):
    labels = clearclip.Vocabulary.parse(["sky = bed", "bed"])
    segmenter = clearclip.Segmenter(base, device="cpu", cache=False, templates=["{}"])
    with pytest.warns(UserWarning, match="left to that label"):
        assert segmenter.prepare(labels).vocabulary.queries == ("sky", "bed")
    assert segmenter.prepare(replace(labels, repeats=True)).vocabulary.queries == ("sky", "bed", "bed")
