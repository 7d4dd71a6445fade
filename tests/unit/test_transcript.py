"""Transcripts are spelled as models of speech recognition spell them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechforget.data.tables.transcript import letters, spelled

TEXTS = st.text(max_size=40)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MISTER QUILTER'S MANNER", "mister quilter's manner"),
        ("  Don\u2019t -- stop,\nplease!\t", "don't stop please"),
        ("rock `n\u00b4 roll", "rock 'n' roll"),
        ("Z\u00fcrich, \uff21\uff22 \ufb01ve", "z\u00fcrich ab five"),
        ("Zu\u0308rich", "z\u00fcrich"),
        ("co\u00adoperate", "cooperate"),
        ("a\u200bb\u00a0c", "a b c"),
        ("room 12a, 5\u00b2", "room 12a 52"),
        ("\u0130stanbul", "i\u0307stanbul"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947!", "\u0928\u092e\u0938\u094d\u0924\u0947"),
        ("\u4f60\u597d\u3002", "\u4f60\u597d"),
        ("?! ...", ""),
    ],
)
def test_a_text_is_spelled_in_lower_case_without_punctuation(text: str, words: str) -> None:
    assert spelled(text) == words


@given(TEXTS)
@example("\u03d2\u0301")
@example("\u0345\u0301'")
@example("e\u200d\u0301")
def test_a_spelled_text_is_spelled_already(text: str) -> None:
    once = spelled(text)
    assert spelled(once) == once
    assert unicodedata.is_normalized("NFKC", once)
    assert "  " not in once
    assert once == once.strip()
    assert once == once.lower()


@given(TEXTS, TEXTS)
def test_texts_that_differ_in_case_width_or_punctuation_are_spelled_alike(first: str, second: str) -> None:
    assert spelled(f"{first}, {second}.") == spelled(f" {first} {second}")
    assert spelled(first.translate({ord("'"): "\u2019"})) == spelled(first)


def test_every_character_alone_is_spelled_once_and_for_all() -> None:
    alone = [spelled(chr(number)) for number in range(0x20000) if not 0xD800 <= number < 0xE000]
    assert [spelled(each) for each in dict.fromkeys(alone)] == list(dict.fromkeys(alone))


@given(st.lists(TEXTS, max_size=5))
def test_letters_are_all_that_spelled_texts_are_written_with(texts: list[str]) -> None:
    found = letters(texts)
    assert found == sorted(set("".join(map(spelled, texts))))
    assert letters(map(spelled, texts)) == found


def test_letters_of_english_hold_the_space_and_the_apostrophe() -> None:
    assert letters(["Don't!", "Go on"]) == [" ", "'", "d", "g", "n", "o", "t"]
