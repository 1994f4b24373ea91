"""One reading of numbers, as its table says."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.scorers.numbers import (
    final_number,
    normalised_number,
    read_number,
    same_answer,
)

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1000", "1000"),
        ("+1000", "1000"),
        ("01000", "1000"),
        ("1,000", "1000"),
        ("1 000", "1000"),
        ("1\u202f000\u202f000", "1000000"),
        ("1'000", "1000"),
        ("1_000", "1000"),
        ("3,500", "3500"),
        ("1,234,567.5", "1234567.5"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("1/2", "0.5"),
        ("3 / 8", "0.375"),
        ("5e-1", "0.5"),
        ("2/6", "1/3"),
        ("-2/6", "-1/3"),
        ("1e3", "1000"),
        ("1E+3", "1000"),
        ("-12", "-12"),
        ("\u221212", "-12"),
        ("-0", "0"),
        ("$12", "12"),
        ("-$12", "-12"),
        ("$-12", "-12"),
        ("12 €", "12"),
        ("12.", "12"),
        ("**12**", "12"),
        ("`12`", "12"),
        ("$12$", "12"),
        (r"\(12\)", "12"),
        (r"\boxed{12}", "12"),
        (LONG, LONG),
        (f"1.{LONG}", f"1.{LONG}"),
    ],
)
def test_what_is_a_number(text: str, value: str) -> None:
    assert normalised_number(text) == value
    assert same_answer(text, value)
    assert same_answer(value, text)


@pytest.mark.parametrize(
    "text",
    [
        "3,5",
        "1.234,5",
        "12,34,567",
        "1,234 567",
        "1.0.0",
        "1/2/3",
        "1/0",
        f"{LONG}/{LONG[1:]}",
        "1e5000",
        "3x",
        "1.5 million",
        "12 dozen",
        "2 times",
        "12 or 13",
        "12 apples and 3 pears",
        "--5",
        "e5",
        "-",
        "",
    ],
)
def test_what_is_none(text: str) -> None:
    assert read_number(text) is None
    assert normalised_number(f" {text} ") == text
    assert same_answer(f" {text} ", text)


@pytest.mark.parametrize(
    ("given", "reference", "same"),
    [
        ("3,5", "35", False),
        ("3.5", "35", False),
        ("12345678901234567890", "12345678901234567891", False),
        (LONG, LONG[1:] + "8", False),
        ("0.1000000000000000000001", "0.1", False),
        ("50%", "50", True),
        ("50 percent", "50%", True),
        ("50%", "0.5", False),
        ("12 apples", "12", True),
        ("12", "12 apples", True),
        ("12 pears", "12 apples", False),
        ("**12**", "12", True),
        ("1234", "a thousand and more\n#### 1,234", True),
        ("3,5", "#### 35", False),
        ("Paris", "#### Paris", True),
        ("7", r"so \boxed{7}", True),
    ],
)
def test_which_answers_are_the_same(given: str, reference: str, same: bool) -> None:
    assert same_answer(given, reference) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"5 and then \boxed{7} or 8", "7"),
        ("5 apples and 1,234.50 pears", "1234.5"),
        ("-3 #### -4", "-4"),
        ("35, so\n#### 3,5", None),
        ("#### 12 apples", "12"),
        ("#### Answer: **42**", "42"),
        ("#### $1,072.00", "1072"),
        ("#### 1 234", "1234"),
        ("1072 or 3", "3"),
        ("from 10-12", "12"),
        (f"so {LONG}", LONG),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_that_a_response_ends_on(text: str, number: str | None) -> None:
    assert final_number(text) == number


@given(st.integers(), st.integers())
def test_whole_numbers_are_exact(one: int, other: int) -> None:
    assert same_answer(f"{one:,}", str(other)) == (one == other)
    assert normalised_number(f"{one:,}.00") == str(one)


@given(st.text(alphabet="0123456789.,-+/eE$% apx#*\\{}\n", max_size=60))
def test_nothing_raises_and_plain_forms_are_plain(text: str) -> None:
    number = read_number(text)
    final_number(text)
    if number is not None:
        assert normalised_number(number.value) == number.value


@pytest.mark.parametrize(
    "text", ["$" * 50_000, "$ " * 50_000, "1,000" * 20_000, "####" * 50_000, "\\boxed{" * 20_000]
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    read_number(text)
    final_number(text)
    assert time.process_time() - began < 1.0
