"""Methods as rows: spellings there and back, refusals, lists, the ablation grid."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearclip import METHODS, Method, UsageError, parse_method, parse_methods
from clearclip.constants import CONSTANTS
from clearclip.methods import ABOUT, AXES, KINDS, POSITIONS, ablation_grid, settle

percents = st.one_of(st.integers(0, 100), st.floats(0, 100))
residuals = st.one_of(
    st.sampled_from(["keep", "drop", "normalize", "class"]),
    st.builds("{}:{}".format, st.sampled_from(["beta", "signed-beta"]), percents),
)


NUMBERS = {
    name: st.integers(int(row.low), int(row.high)) if row.whole else st.floats(row.low, row.high)
    for name, row in CONSTANTS.items()
}


def senseless(
    *,
    attention,
    prior,
    normalize,
    residual,
    alpha,
    ffn,
    depth,
    mix,
    repair,
    pool,
    streams,
    window,
    class_token,
    **numbers,
):
    """The combinations that are refused, said in another way than the code does."""
    return (
        (normalize and not {"qq", "kk", "vv"}.issuperset(attention))
        or (prior == "none" and "uniform" in attention)
        or (prior != "none" and (normalize or {"identity", "mid", "fused"}.issuperset(attention)))
        or (window == "cliper") != (streams == "each")
        or (window == "sfr" and (normalize or {"identity", "mid", "uniform", "fused"} & {*attention}))
        or (streams == "each" and (residual, ffn, mix, repair, pool) != ("drop", False, "none", "none", "none"))
        or ("fused" in attention and (streams != "each" or class_token == "out"))
        or (window != "sfr" and {"temp_thd", "sfr_tau", "sfr_lambda", "sfr_std", "path"} & numbers.keys())
        or (
            window != "cliper" and {"attention_thr", "select_layer", "fuse", "stretch", "score", "bkg"} & numbers.keys()
        )
        or (ffn and depth > 1)
        or (depth > 1 and (mix, repair, pool, streams) != ("none", "none", "none", "last"))
        or (repair != "lof" and {"k", "share"} & numbers.keys())
        or ("procrustes" not in attention and "polar_iters" in numbers)
        or (not {"procrustes", "procrustes-svd"} & set(attention) and "alpha_kk" in numbers)
        or ("mid" not in attention and ("temperature" in numbers or ("before" not in pool and "pre" in numbers)))
        or ("after" not in pool and "post" in numbers)
        or (pool == "none" and "beta" in numbers)
        or ("sum" not in streams and {"start", "end"} & numbers.keys())
        or (residual != "class" and "omega" in numbers)
        or (residual in ("drop", "class") and alpha == 0)
        or (residual == "drop" and alpha != 1 and not ffn)
    )


@st.composite
def rows(draw):
    values = {
        "name": draw(st.sampled_from(sorted(METHODS))),
        "attention": tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))),
        "prior": draw(st.one_of(st.just("none"), st.builds("gaussian:{}".format, st.floats(0.01, 10_000)))),
        "combine": draw(st.sampled_from(["sum", "mean"])),
        "normalize": draw(st.booleans()),
        "residual": draw(residuals),
        "alpha": draw(st.floats(0, 1e6)),
        "ffn": draw(st.booleans()),
        "positions": draw(st.sampled_from(POSITIONS)),
        "depth": draw(st.integers(1, 12)),
        "class_token": draw(st.sampled_from(["in", "out"])),
        "mix": draw(st.sampled_from(["none", "5-8:2:0.3", "0-0:1.5:1"])),
        "repair": draw(st.sampled_from(["none", "lof", "norm:1", "norm:10"])),
        "pool": draw(st.sampled_from(["none", "before", "after", "before+after"])),
        "streams": draw(st.sampled_from(["last", "sum", "last+sum", "each"])),
        "window": draw(st.sampled_from(["none", "cliper", "sfr"])),
    }
    numbers = {name: draw(NUMBERS[name]) for name in draw(st.sets(st.sampled_from(sorted(NUMBERS)), max_size=2))}
    values |= numbers
    if senseless(**values):
        with pytest.raises(UsageError, match=r"makes no sense|leaves nothing|no effect|makes all"):
            Method(**values)
        values |= {
            "attention": ("qq", "identity"),
            "prior": "none",
            "normalize": False,
            "depth": 1,
            "ffn": True,
            "alpha": values["alpha"] + 0.5,
            "streams": "last",
            "window": "none",
            **dict.fromkeys(numbers),
        }
    return Method(**values)


@given(rows())
def test_spelling_there_and_back(row):
    assert parse_method(row.spelling) == row
    assert parse_methods(f"vanilla[alpha=7],{row.spelling}") == (parse_method("vanilla[alpha=7]"), row)


@given(rows(), st.sampled_from([axis.name for axis in AXES]))
def test_every_changed_axis_is_spelled(row, axis):
    plain = METHODS[row.name]
    changed = getattr(row, axis) != getattr(plain, axis)
    assert (f"{axis}=" in row.spelling.replace("[", ",").replace("+", ",")) == changed


def test_named_methods_spell_themselves():
    for name, row in METHODS.items():
        assert row.name == name == row.spelling
        assert parse_method(name) is row
        assert ABOUT[name]


def test_the_rows_of_the_paper():
    vanilla, clearclip, gem = METHODS["vanilla"], METHODS["clearclip"], METHODS["gem"]
    assert (vanilla.attention, vanilla.residual, vanilla.ffn, vanilla.depth) == (("qk",), "keep", True, 1)
    assert (clearclip.attention, clearclip.residual, clearclip.ffn) == (("qq",), "drop", False)
    assert (METHODS["sclip"].attention, METHODS["sclip"].combine) == (("qq", "kk"), "sum")
    assert (gem.depth, gem.normalize, gem.combine, gem.positions, gem.ffn) == (6, True, "mean", "antialias", False)
    assert METHODS["gem+clearclip"].depth == 1
    for name in ("maskclip", "sclip"):
        joined = METHODS[f"{name}+clearclip"]
        assert (joined.attention, joined.residual, joined.ffn) == (METHODS[name].attention, "drop", False)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("clearclip[residual=beta:30]", {"residual": "beta:30"}),
        ("clearclip[residual=beta:30.0]", {"residual": "beta:30"}),
        ("clearclip[residual=signed-beta:.5]", {"residual": "signed-beta:0.5"}),
        ("clearclip[residual=keep,ffn=keep]", {"residual": "keep", "ffn": True}),
        (" ClearCLIP [ residual = normalize ] ", {"residual": "normalize"}),
        ("clearclip[residual=keep,alpha=2]", {"residual": "keep", "alpha": 2.0}),
        ("clearclip[attention=vv]", {"attention": ("vv",)}),
        ("clearclip[attention=qq+kk,combine=mean]", {"attention": ("qq", "kk"), "combine": "mean"}),
        ("clearclip[attention=qq,normalize=yes]", {"normalize": True}),
        ("clearclip[positions=size]", {"positions": "size"}),
        ("clearclip[]", {}),
        ("clearclip[depth=3]", {"depth": 3}),
        ("clearclip[class-token=out]", {"class_token": "out"}),
        ("clearclip[mix=2:1:.5]", {"mix": "2-2:1:0.5"}),
        ("clearclip[repair=norm]", {"repair": "norm:10"}),
        ("clearclip[pool=after+before,pre=2]", {"pool": "before+after", "pre": 2}),
    ],
)
def test_brackets_change_axes(text, changes):
    assert parse_method(text) == replace(METHODS["clearclip"], **changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clarclip", "did you mean 'clearclip'"),
        ("", "allowed: vanilla"),
        ("gem+clearclp", "gem+clearclip"),
        ("clearclip[residul=keep]", "did you mean 'residual'"),
        ("clearclip[name=x]", "axis 'name'"),
        ("clearclip[residual=kep]", "did you mean 'keep'"),
        ("clearclip[residual]", "has no value"),
        ("clearclip[residual=]", "has no value"),
        ("clearclip[residual=beta]", "percentage from 0 to 100"),
        ("clearclip[residual=beta:101]", "percentage from 0 to 100"),
        ("clearclip[residual=beta:-1]", "percentage from 0 to 100"),
        ("clearclip[residual=beta:nan]", "percentage from 0 to 100"),
        ("clearclip[residual=keep:3]", "only beta"),
        ("clearclip[residual=keep,residual=drop]", "stands twice"),
        ("clearclip[attention=qv]", "did you mean"),
        ("clearclip[attention=qq+qq]", "names a kind twice"),
        ("clearclip[attention=qq+]", "attention=''"),
        ("clearclip[combine=product]", "combine='product'"),
        ("clearclip[ffn=maybe]", "ffn='maybe'"),
        ("clearclip[alpha=two]", "not a number"),
        ("clearclip[residual=keep,alpha=-1]", "at least 0"),
        ("clearclip[residual=keep,alpha=nan]", "finite"),
        ("clearclip[residual=keep,alpha=inf]", "finite"),
        ("clearclip[depth=0]", "at least 1"),
        ("clearclip[depth=1.5]", "whole number"),
        ("clearclip[positions=nearest]", "positions='nearest'"),
        ("clearclip[residual=keep", "unbalanced"),
        ("clearclip]", "unbalanced"),
        ("clearclip[a[b]]", "unbalanced"),
        ("gem[attention=qk]", "self-self attention only"),
        ("gem[attention=vv+identity]", "self-self attention only"),
        ("gem[ffn=keep]", "no feed-forward network"),
        ("clearclip[alpha=0]", "leaves nothing"),
        ("clearclip[alpha=2]", "no effect"),
        ("clearclip[k=20]", "no effect: only repair=lof reads it"),
        ("scclip[repair=norm,share=0.1]", "no effect: only repair=lof reads it"),
        ("scclip[repair=nrm]", "did you mean 'norm'"),
        ("scclip[repair=lof:3]", "as in norm:10"),
        ("scclip[repair=norm:0]", "as in norm:10"),
        ("naclip[mix=5-8]", "as in 5-8:2:0.3"),
        ("naclip[mix=8-5:2:0.3]", "as in 5-8:2:0.3"),
        ("naclip[mix=5-8:2:1.3]", "as in 5-8:2:0.3"),
        ("naclip[mix=5-8:0:0.3]", "as in 5-8:2:0.3"),
        ("gem[mix=5-8:2:0.3]", "the last block alone"),
        ("clearclip[polar_iters=3]", "only attention=procrustes reads it"),
        ("scclip[pool=none+after]", "none or each alone"),
        ("scclip[streams=sum+sum]", "name each once"),
        ("scclip[pre=1.5]", "a whole number from 0 to 999"),
        ("scclip[beta=1.5]", "a number from 0 to 1 "),
        ("scclip[beta=nan]", "a number from 0 to 1 "),
        ("scclip[omega=much]", "not a number"),
        ("gem[streams=last+sum]", "the last block alone"),
        ("scclip[alpha=0]", "leaves nothing"),
    ],
)
def test_refusals_say_why(text, said):
    with pytest.raises(UsageError) as refusal:
        parse_method(text)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_lists():
    assert [row.name for row in parse_methods("vanilla, clearclip ,gem")] == ["vanilla", "clearclip", "gem"]
    both = parse_methods("vanilla[residual=drop,ffn=drop],clearclip[residual=keep,ffn=keep]")
    assert [row.spelling for row in both] == ["vanilla[residual=drop,ffn=drop]", "clearclip[residual=keep,ffn=keep]"]
    assert parse_methods(METHODS["gem"]) == (METHODS["gem"],)
    assert parse_methods(["gem", METHODS["vanilla"]]) == (METHODS["gem"], METHODS["vanilla"])
    for nothing in ("", " , ", []):
        with pytest.raises(UsageError, match="no method"):
            parse_methods(nothing)
    with pytest.raises(UsageError, match="given twice"):
        parse_methods("clearclip,vanilla,clearclip[residual=drop]")


def test_ablation_grid():
    grid = ablation_grid()
    assert len(grid) == len({row.spelling for row in grid}) == 24
    assert {row.attention for row in grid} == {("qk",), ("qq",), ("kk",), ("vv",), ("identity",), ("qq", "kk")}
    assert all(row.depth == 1 and not row.normalize for row in grid)
    for attention in {row.attention for row in grid}:
        switches = {(row.residual, row.ffn) for row in grid if row.attention == attention}
        assert switches == {("keep", True), ("keep", False), ("drop", True), ("drop", False)}


def test_rows_are_values():
    row = Method("mine", attention=["qq", "kk"])
    assert row.attention == ("qq", "kk")
    assert len({row, Method("mine", attention=("qq", "kk"))}) == 1
    assert row.spelling == "vanilla[attention=qq+kk]"
    with pytest.raises(UsageError):
        Method("mine", attention=())
    with pytest.raises(UsageError):
        Method("mine", depth=True, ffn=False)


@pytest.mark.parametrize(
    ("blocks", "numbers"),
    [
        (12, (8, 3, 3, 10, 0.3)),
        (24, (16, 6, 8, 19, 0.1)),
        (10, (6, 2, 2, 8, 0.3)),
        (4, (2, 1, 1, 3, 0.3)),
        (32, (21, 8, 10, 25, 0.1)),
    ],
)
def test_numbers_by_depth(blocks, numbers):
    """The published ones, or in their proportion; they fit the model."""
    row = settle(METHODS["scclip"], blocks=blocks, model="it")
    assert (row.pre, row.post, row.start, row.end, row.omega) == numbers
    assert settle(row, blocks=blocks, model="it") == row
    assert settle(METHODS["clearclip"], blocks=blocks, model="it") == METHODS["clearclip"]


def test_numbers_that_do_not_fit():
    with pytest.raises(UsageError, match=r"pre=2 of scclip does not fit it of 3 blocks.*use pre=1 or less"):
        settle(METHODS["scclip"], blocks=3, model="it")
    with pytest.raises(UsageError, match="end=11 of scclip does not fit it of 10 blocks"):
        settle(parse_method("scclip[end=11]"), blocks=10, model="it")
    with pytest.raises(UsageError, match="leave no block between them"):
        settle(parse_method("scclip[start=5,end=5]"), blocks=10, model="it")
    with pytest.raises(UsageError, match=r"mix=5-8:2:0.3 of naclip does not fit it of 8 blocks.*the last is 7"):
        settle(parse_method("naclip[mix=5-8:2:0.3]"), blocks=8, model="it")
    assert settle(parse_method("scclip[end=9,pre=8,post=0]"), blocks=10, model="it").end == 9
