"""The rows of tables and figures, and the bookkeeping of β."""

from __future__ import annotations

import pytest
import torch

import clearclip
from clearclip.errors import UsageError
from clearclip.paper import printed
from clearclip.paper.models import KNOWN_HASHES, Model, parse_models
from clearclip.paper.rows import (
    ALPHAS,
    BETAS,
    CURVE_BETAS,
    WITHOUT_BACKGROUND,
    alpha_method,
    beta_method,
    canonical,
    figure1_methods,
    find_targets,
    kept_channels,
    table2_methods,
)
from clearclip.paper.table2 import signed


def test_the_ends_of_beta_are_the_named_methods():
    assert beta_method(0).spelling == "clearclip[residual=keep]"
    assert beta_method(100).spelling == "clearclip"
    assert alpha_method(1).spelling == beta_method(0).spelling
    assert set(BETAS) <= set(CURVE_BETAS)


def test_the_papers_rows_are_spelled_by_the_papers_methods():
    assert "naclip" not in {row.name for row in figure1_methods().values()}
    assert canonical("naclip[prior=none]").spelling == "clearclip[attention=kk]"


def test_features_at_the_ends_of_beta(backbone):
    images = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    found = clearclip.dense_features(
        backbone,
        images,
        method=["clearclip[residual=beta:0]", "clearclip[residual=keep]", "clearclip[residual=beta:100]", "clearclip"],
    )
    zero, keep, hundred, none = found.values()
    torch.testing.assert_close(zero, keep, rtol=0, atol=0)
    torch.testing.assert_close(hundred, none, rtol=0, atol=0)


def test_kept_channels_fall_with_beta_and_are_those_of_the_model(backbone):
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    rows = [f"clearclip[residual=beta:{beta}]" for beta in CURVE_BETAS]
    parts = clearclip.dense_features(backbone, images, method=rows, parts=True)
    counts = [kept_channels(beta, width=backbone.width) for beta in CURVE_BETAS]
    assert counts[0] == backbone.width
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    for count, part in zip(counts, parts.values(), strict=True):
        kept = (part.sum - part.attn_out)[0].abs().amax(dim=(0, 1)) > 1e-4
        assert int(kept.sum()) == count


def test_kept_channels_refuses_more_than_everything():
    with pytest.raises(UsageError, match="percentage"):
        kept_channels(101, width=64)


def test_targets_share_spellings():
    figure1 = {row.spelling for row in figure1_methods().values()}
    assert len(figure1) == 24
    assert {"vanilla", "maskclip", "sclip", "clearclip", "maskclip+clearclip", "sclip+clearclip"} <= figure1
    assert beta_method(0).spelling in figure1
    assert canonical("vanilla[attention=qq,residual=drop,ffn=drop]").spelling == "clearclip"
    assert len({alpha_method(alpha).spelling for alpha in ALPHAS}) == len(ALPHAS)


def test_only_openai_and_own_models_have_the_other_methods():
    assert [row.spelling for row in table2_methods("blip-l16")] == ["vanilla", "clearclip"]
    assert len(table2_methods("clip-l14")) == len(table2_methods("tiny")) == 8


def test_unknown_target_names_the_nearest():
    assert len(find_targets("all")) == 6
    with pytest.raises(UsageError, match="table2"):
        find_targets("tabel2")


def test_what_the_paper_prints_against_its_own_cells():
    assert printed.published_mean(WITHOUT_BACKGROUND, model="clip-b16", method="maskclip+clearclip") == pytest.approx(
        29.28
    )
    assert printed.published_gain(WITHOUT_BACKGROUND, model="clip-l14", base="maskclip") == pytest.approx(15.38)
    assert printed.published_gain(WITHOUT_BACKGROUND, model="clip-l14", base="sclip") == pytest.approx(11.14)
    assert printed.published_mean(("voc20", "scenes"), model="clip-b16", method="vanilla") is None
    sentences = printed.misprints(WITHOUT_BACKGROUND)
    assert len(sentences) == 6
    assert "clip-l14, maskclip+clearclip: the paper prints the gain +11.1, its own cells give +15.4" in sentences
    for model, base in (("clip-b16", "vanilla"), ("clip-b16", "gem"), ("clip-l14", "gem")):
        assert (model, base) not in printed.MISPRINTED_GAINS


def test_table1_as_the_facts_have_it(shared):
    lines = (shared / "protocol/published_beta.csv").read_text().split()[1:]
    facts = {name if name == "normalized" else int(name): float(value) for name, value in (x.split(",") for x in lines)}
    assert facts == printed.TABLE1


def test_models():
    assert parse_models("tiny,clip-b16=weights.pt") == [Model("tiny"), Model("clip-b16", "weights.pt")]
    with pytest.raises(UsageError, match="clip-b16"):
        parse_models("clip-b61=x")
    with pytest.raises(UsageError, match="twice"):
        parse_models("tiny,tiny")
    with pytest.raises(UsageError, match="no weights"):
        parse_models("tiny=")
    assert all(len(known) == 64 for known in KNOWN_HASHES.values())


@pytest.mark.parametrize(("points", "shown"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-12.34, "-12.3")])
def test_a_gain_that_rounds_to_nothing_has_no_sign(points, shown):
    assert signed(points) == shown
