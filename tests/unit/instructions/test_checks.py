"""Each check, on responses that were read by hand."""

from __future__ import annotations

import pytest

from selfeval_backend.instructions import Constraint
from selfeval_backend.instructions.checks import CHECKS, plain_words

LISTED = "Tips:\n* Sleep well\n- Eat well\n  • Walk\n"
NUMBERED = "Steps:\n1. Mix.\n2) Bake.\n3. Eat."


@pytest.mark.parametrize(
    ("check", "words", "number", "kept", "broken"),
    [
        ("answer", ("Paris", "Lyon"), 5, "It is Paris.", "Paris or Lyon"),
        ("answer", ("38",), 5, "38", "138"),
        ("answer", ("Oslo",), 3, "oslo!", "The capital is Oslo"),
        ("at_least_words", (), 3, "one two three", "one two"),
        ("at_most_words", (), 2, "one two", "one two three"),
        ("at_most_words", (), 2, "one", ""),
        ("begins", ("Well",), 0, '"well, it rains."', "Wellington it is."),
        ("begins", ("Dear Anna",), 0, "\nDear Anna,\nhello", "Hello, dear Anna"),
        ("bullets", (), 3, LISTED, "* one\n* two"),
        ("bullets", (), 1, "* **bold** start", "**bold** start"),
        ("bullets", (), 2, "*one\n-two", "---\n-two"),
        ("copied", ("A cat sat.",), 0, '"A cat sat."\n', "A cat sat. Done."),
        ("forbidden", ("sea", "salt"), 0, "The season is long.", "Calm is the SEA."),
        ("headings", (), 2, "# One\ntext\n## Two\n", "# One\n#hashtag"),
        ("highlights", (), 2, "*one* and **two words**", "* one\n* two"),
        (
            "json",
            ("text", "title"),
            0,
            '```json\n{"title": "a", "text": "b"}\n```',
            '{"title": "a"}',
        ),
        ("json", ("a", "b"), 0, '{"b": 1, "a": 2}', 'Here: {"b": 1, "a": 2}'),
        ("json", ("a",), 0, '{"a": []}', '["a"]'),
        ("keywords", ("sea", "fish"), 0, "Fish of the sea.", "The season of fish."),
        ("letter", ("q",), 2, "Quiet queens", "Quiet kings"),
        ("no_comma", (), 1, "One and two.", "One, two."),
        ("no_digit", (), 1, "Seven years", "7 years"),
        ("numbered", (), 3, NUMBERED, "1. a\n3. b\n2. c"),
        ("numbered", (), 2, "1. a\n2. b", NUMBERED),
        ("paragraphs", (), 2, "One.\n\n\nTwo.", "One.\nTwo."),
        ("placeholders", (), 2, "Dear [name], see [link text](x).", "Dear [name] []"),
        ("postscript", (), 1, "Text.\n\nP.S. Call me", "Text about the P.S. of letters"),
        ("postscript", (), 1, "Text.\n**P. S.:** Call me", "Text.\nP.S."),
        ("quotation", (), 1, "She said: “Come in.”", 'An inch is 1".'),
        ("repeated", ("bee",), 2, "A bee is a Bee.", "A bee and bees."),
        ("sentences", (), 2, "Mr. Fox ran. Did he?", "Mr. Fox ran. Did he? Yes."),
        ("sentences", (), 3, "It is 3.5 m. He ran! And he", "It is 3.5 m. He ran!"),
        ("title", (), 1, "<<Rain>>\nIt falls.", "<Rain>\nIt falls."),
        ("without_letter", ("z",), 0, "A lion", "A Zebra"),
    ],
)
def test_a_check_tells_kept_from_broken(
    check: str, words: tuple[str, ...], number: int, kept: str, broken: str
) -> None:
    constraint = Constraint(check=check, words=words, number=number)
    assert constraint.is_kept(kept)
    assert not constraint.is_kept(broken)


@pytest.mark.parametrize("check", sorted(CHECKS))
@pytest.mark.parametrize("response", ["", " \n "])
def test_an_empty_response_keeps_to_nothing(check: str, response: str) -> None:
    assert not Constraint(check=check, words=("word",), number=1).is_kept(response)


def test_plain_words_leave_out_case_and_punctuation() -> None:
    assert plain_words("It's a *well-kept* Secret, no?") == [
        "it's",
        "a",
        "well-kept",
        "secret",
        "no",
    ]
