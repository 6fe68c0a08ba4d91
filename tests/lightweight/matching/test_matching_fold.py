"""Folding of texts and patterns, and the way back from a folded span to the original text."""

import random
import unicodedata

import pytest
import re2

from lightweight.matching.fold import fold, fold_pattern, original_span


def found(pattern: str, text: str) -> str | None:
    """What a folded pattern finds in a folded text, cut from the original."""
    options = re2.Options()
    options.case_sensitive = False
    folded = fold(text)
    match = re2.compile(fold_pattern(pattern), options).search(folded)
    if match is None:
        return None
    start, end = original_span(text, folded, *match.span())
    return text[start:end]


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Opening   HOURS", "opening hours"),
        ("  two\t\nlines \r\n", "two lines"),
        ("ＯＰＥＮＩＮＧ　ｈｏｕｒｓ？", "opening hours?"),
        ("营业时间？", "营业时间?"),
        ("Straße", "strasse"),
        ("ﬁne №5", "fine no5"),
        ("e\u0301te\u0301", "été"),
        ("ｶﾞｽ", "ガス"),
        ("a\u200bb\ufeffc", "abc"),
        ("", ""),
        (" \u3000 ", ""),
        (" a b ", "a b"),
        ("a\x1fb\x7f", "a b\x7f"),
    ],
)
def test_texts_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize(
    ("pattern", "text", "original"),
    [
        ("refund", "my REFUND please", "REFUND"),
        ("order (?P<id>[a-z0-9-]+)", "Order   A-12!", "Order   A-12"),
        ("订单[a-z0-9]+", "我的订单ＡＢ１２在哪", "订单ＡＢ１２"),
        ("gas", "ＧＡＳ", "ＧＡＳ"),
        ("ガス", "ｶﾞｽ料金", "ｶﾞｽ"),
        ("été", "l'E\u0301TE\u0301 dernier", "E\u0301TE\u0301"),
        ("strasse", "Hauptstraße 5", "straße"),
        ("a b", "x A \u3000 B y", "A \u3000 B"),
        ("营业时间？", "营业时间?", "营业时间?"),
        (r"\w+好", "你们Ｏ好", "你们Ｏ好"),
        (r"(?P<Name>ABC)", "xabcx", "abc"),
        (r"[Ａ-Ｃ]{3}", "xabcx", "abc"),
        (r"[\u4e00-\u9fa5]{2}", "ab你好", "你好"),
        (r"\Qa.b\E", "A.B", "A.B"),
        ("ß+x", "ßßX", "ßßX"),
        (r"a\nb", "a b", "a b"),
        (r"end\Z", "the END", "END"),
        ("a  +b", "a    b", "a    b"),
        (r"\D\S\W", "1AB!", "AB!"),
    ],
)
def test_patterns_find_the_original_text(pattern: str, text: str, original: str) -> None:
    assert found(pattern, text) == original


@pytest.mark.parametrize(
    ("pattern", "text"), [("营业时间？", "营业时间"), (r"\D", "123"), (r"a\.b", "axb"), (r"[^Ａ]", "a"), (r"\w", "。，")]
)
def test_folding_keeps_what_a_pattern_means(pattern: str, text: str) -> None:
    assert found(pattern, text) is None


def test_every_span_of_any_text_leads_back() -> None:
    """Folding the original of a span gives the span again, for texts of all scripts, widths and marks."""
    draw = random.Random(7)
    letters = "aB é e\u0301 Ａ　 ｶﾞ ﬁ ß İ 你 好 \u1112\u1161\u11ab \u200b Ω ½ ㎏ \u00a0\t？"
    for _ in range(300):
        text = "".join(draw.choice(letters) for _ in range(draw.randint(1, 24)))
        folded = fold(text)
        for _ in range(5):
            start = draw.randint(0, len(folded))
            end = draw.randint(start, len(folded))
            begin, stop = original_span(text, folded, start, end)
            assert begin >= 0, (text, folded)
            assert folded[start:end].strip() in fold(text[begin:stop]), (text, folded[start:end], text[begin:stop])


def test_a_whole_text_leads_back_to_itself() -> None:
    for text in ("Hello World", "Ｈｅｌｌｏ　Ｗｏｒｌｄ", "你好，世界", unicodedata.normalize("NFD", "Ünïcode")):
        folded = fold(text)
        assert original_span(text, folded, 0, len(folded)) == (0, len(text))
