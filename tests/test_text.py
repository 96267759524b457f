"""Text of others: what people are shown of it, and what files and protocols get."""

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.records import BatchLimiter
from batchscope.text import quoted, shown, shown_document

ANY_TEXT = st.text(st.characters())  # lone surrogates and controls included


@given(ANY_TEXT, st.integers(0, 40))
def test_what_is_shown_is_one_line_that_steers_no_terminal_and_is_not_too_long(text, longest):
    found = shown(text, longest)
    assert found.isprintable()
    assert len(found) <= 10 * longest + 3
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in found)
    found.encode()


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=500))
def test_a_text_that_can_be_shown_is_shown_as_it_is(text):
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b]8;;file:///etc\x07here", r"\x1b]8;;file:///etc\x07here"),
        ("\x9b31m", r"\x9b31m"),
        ("two\nlines\r", r"two\nlines\r"),
        ("exe.\u202egpj", r"exe.\u202egpj"),
        ("name \udc80", r"name \udc80"),
        ("[bold]grün 模型[/]", "[bold]grün 模型[/]"),
        ("a" * 501, "a" * 500 + "..."),
    ],
)
def test_what_steers_is_shown_as_an_escape(text, expected):
    assert shown(text) == expected


@given(ANY_TEXT | st.binary() | st.floats() | st.lists(st.text()), st.integers(10, 80))
def test_a_quoted_value_is_its_repr_up_to_a_length(value, longest):
    found = quoted(value, longest)
    assert found.isprintable()
    assert len(found) <= longest
    assert found == repr(value) or found.endswith("...") or not repr(value).isprintable()


class Target(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str]
    limiter: BatchLimiter
    span: tuple[float, str]
    inner: "Target | None" = None


def test_every_text_of_a_document_is_shown_and_the_rest_stays_what_it_is():
    bad, good = "\x1b[2J", r"\x1b[2J"
    inner = Target(bad, {bad: bad}, BatchLimiter.DEMAND, (1.5, bad))
    clean = Target(good, {good: good}, BatchLimiter.DEMAND, (1.5, good))
    found = shown_document(Target("plain", {}, BatchLimiter.POLICY, (0.0, ""), inner))
    assert found == Target("plain", {}, BatchLimiter.POLICY, (0.0, ""), clean)
    assert type(found.inner.limiter) is BatchLimiter
    assert shown_document([bad, 1, None]) == [good, 1, None]
