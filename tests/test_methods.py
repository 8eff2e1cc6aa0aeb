"""Methods as rows: spellings there and back, refusals, lists, the ablation grid."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearclip import METHODS, Method, UsageError, parse_method, parse_methods
from clearclip.methods import ABOUT, AXES, KINDS, POSITIONS, ablation_grid

percents = st.one_of(st.integers(0, 100), st.floats(0, 100))
residuals = st.one_of(
    st.sampled_from(["keep", "drop", "normalize"]),
    st.builds("{}:{}".format, st.sampled_from(["beta", "signed-beta"]), percents),
)


def senseless(*, attention, prior, normalize, residual, alpha, ffn, depth, **_):
    """The combinations that are refused, said in another way than the code does."""
    return (
        (normalize and not {"qq", "kk", "vv"}.issuperset(attention))
        or (prior == "none" and "uniform" in attention)
        or (prior != "none" and (normalize or attention == ("identity",)))
        or (ffn and depth > 1)
        or (residual == "drop" and (alpha == 0 or (alpha != 1 and not ffn)))
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
    }
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
