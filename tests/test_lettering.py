"""Legends write every letter: in fonts that have it, or as its code, never as a crossed box."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from clearclip.files import lettering
from clearclip.files.drawing import draw_legend
from clearclip.inspection import style


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A machine with these fonts alone: files by name, the letters that each has."""

    def install(**letters):
        for name, held in letters.items():
            builder = FontBuilder(1000, isTTF=True)
            names = {ord(letter): f"g{ord(letter)}" for letter in held}
            builder.setupGlyphOrder([".notdef", *names.values()])
            builder.setupCharacterMap(names)
            glyphs = {}
            for place, glyph in enumerate([".notdef", *names.values()]):
                pen = TTGlyphPen(None)
                for point in ((0, 0), (0, 700), (600 - 50 * place, 700 - 20 * place)):
                    (pen.lineTo if pen.points else pen.moveTo)(point)
                pen.closePath()
                glyphs[glyph] = pen.glyph()
            builder.setupGlyf(glyphs)
            builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (700, 0)))
            builder.setupHorizontalHeader(ascent=800, descent=-200)
            builder.setupNameTable({"familyName": name, "styleName": "Regular"})
            builder.setupOS2()
            builder.setupPost()
            builder.save(tmp_path / f"{name}.ttf")

    def forget():
        for cached in (lettering.font_of, lettering._has, lettering._shape, lettering._face, lettering._installed):
            cached.cache_clear()

    monkeypatch.setattr(lettering, "FOLDERS", (str(tmp_path),))
    forget()
    yield install
    forget()


def strip(text):
    return np.asarray(draw_legend([(text, (9, 9, 9))], width=400))


@pytest.mark.parametrize("text", ["forêt", "Straße", "Größe", "лес", "δέντρο", "→ × – …", "مرحبا", "cafe\u0301"])
def test_the_shipped_font_has_letters_of_many_scripts(fonts, text):
    assert "U+" not in lettering.drawn(text)
    boxes = [strip("\uffff" * count) for count in (1, 2)]
    assert all((strip(text).shape != box.shape) or (strip(text) != box).any() for box in boxes)
    letters = {letter for letter in lettering.drawn(text) if not letter.isspace()}
    assert all(lettering.font_of(letter) == lettering.SHIPPED for letter in letters)


def test_ascii_is_drawn_as_ever(fonts):
    ((part, font),) = lettering.runs("sky  12.3%", 14)
    assert (part, font.getname()[0]) == ("sky  12.3%", "Aileron")


def test_what_no_font_has_is_its_code(fonts):
    assert lettering.drawn("天空 x") == "[U+5929][U+7A7A] x"
    assert (strip("天") == strip("[U+5929]\u200b")).all()
    assert (strip("天") != strip("空")).any()


def test_a_font_of_the_machine_is_found(fonts):
    fonts(Wide_CJK="天空", Plain="ไ", Wide_CJK_Bold="木")
    assert lettering.font_of("天").name == "Wide_CJK.ttf"
    assert lettering.font_of("ไ").name == "Plain.ttf"
    assert lettering.font_of("木") is None
    assert [(part, font.getname()[0]) for part, font in lettering.runs("天空é ไ", 14)] == [
        ("天空", "Wide_CJK"), ("é ", "DejaVu Sans"), ("ไ", "Plain"),
    ]  # fmt: skip
    assert (strip("天空é ไ") != 255).any()


def test_files_that_are_no_fonts_are_passed_over(fonts, tmp_path):
    (tmp_path / "sans.ttf").write_bytes(b"no font")
    (tmp_path / "sans.otf").mkdir()
    fonts(Later="天")
    assert lettering.font_of("天").name == "Later.ttf"


@pytest.mark.parametrize("text", ["a\nb", "a\u200bb", "\x1b[2J", "\u202eabc", "é\u2028b", "", "\u0301", "木" * 500])
def test_any_text_is_drawn(fonts, text):
    picture = draw_legend([(text, (9, 9, 9))], width=160)
    assert picture.width == 160
    assert picture.height < 60


def test_figures_write_the_same(fonts):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    fonts(Wide="天")
    with style.look():
        figure = Figure()
        text = figure.text(0.5, 0.5, "")
        style.write(text, "天 $x_ é 空")
        assert text.get_text() == "天 $x_ é [U+7A7A]"
        assert text.get_fontfamily() == ["DejaVu Sans", "Wide"]
        figure.canvas.draw()  # a missing letter, or half a formula, would be a warning or an error


def test_a_legend_of_the_command(run, tmp_path):
    Image.new("RGB", (64, 64), (90, 160, 230)).save(tmp_path / "s.png")
    words = ("-l", "天空=sky", "-l", "forêt=tree", "--model", "tiny", "--template", "{}", "--format", "preview")
    ran = run("segment", tmp_path / "s.png", *words, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    with Image.open(tmp_path / "out" / "s.overlay.jpg") as picture:
        assert picture.height > 64
