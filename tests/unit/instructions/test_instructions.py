"""Instructions: what is in which part, and that they are the same every time."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice
from typing import get_args

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.instructions import (
    HELD_OUT_KINDS,
    KINDS,
    TEST_PARTS,
    Constraint,
    Instruction,
    Part,
    TestPart,
    generate_instructions,
)
from selfeval_backend.instructions.checks import CHECKS
from selfeval_backend.instructions.constraints import CONSTRAINT_KINDS
from selfeval_backend.instructions.questions import QUESTION_KINDS
from selfeval_backend.instructions.vocabulary import (
    Vocabulary,
    one_side,
    vocabulary,
    wordings,
)

PARTS: tuple[Part, ...] = ("train", "calibration", *TEST_PARTS)


def constraint(check: str, *words: str) -> Constraint:
    return Constraint(check=check, words=words, number=1)


def draw(part: Part, count: int, *, seed: int = 0) -> list[Instruction]:
    return list(islice(generate_instructions(part, seed=seed), count))


@pytest.mark.parametrize("part", PARTS)
def test_a_seed_gives_the_same_prompts_every_time_and_none_twice(part: Part) -> None:
    first = draw(part, 200)
    assert first == draw(part, 200)
    assert first != draw(part, 200, seed=1)
    assert len({instruction.prompt for instruction in first}) == 200


def test_prompts_stay_what_they_are() -> None:
    """Recorded samples are of these very prompts: a change needs new ones."""
    prompts = [i.prompt for part in PARTS for i in draw(part, 50)]
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    assert digest[:16] == "b8336f0533aecc41"


def test_kinds_are_equally_often_and_held_out_ones_in_their_own_part() -> None:
    kinds = {part: Counter(i.kind for i in draw(part, 4 * len(KINDS))) for part in PARTS}
    for part, counts in kinds.items():
        held_out = part == "unseen_kind"
        assert set(counts) == {kind for kind in KINDS if (kind in HELD_OUT_KINDS) == held_out}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_part_of_training_holds_a_prompt_of_a_test_part() -> None:
    learnt = {i.key for part in ("train", "calibration") for i in draw(part, 1500)}
    tested = {i.key for part in TEST_PARTS for i in draw(part, 500)}
    assert not learnt & tested
    assert not {i.key for i in draw("train", 1500)} & {i.key for i in draw("calibration", 500)}


def test_topics_are_either_learnt_or_held_out() -> None:
    learnt, held_out = (vocabulary(held_out=side) for side in (False, True))
    cases: list[tuple[Part, Vocabulary, Vocabulary]] = [
        ("train", learnt, held_out),
        ("unseen_wording", held_out, learnt),
    ]
    for part, own, other in cases:
        found = {i.subject for i in draw(part, 1000) if i.kind in CONSTRAINT_KINDS}
        assert found <= {each for topic in own.topics for each in subjects(topic.name, own)}
        assert not found & {each for topic in other.topics for each in subjects(topic.name, other)}


def subjects(topic: str, words: Vocabulary) -> list[str]:
    return [topic, *(f"{topic} {aspect}" for aspect in words.aspects)]


def test_a_quarter_of_every_list_of_wordings_is_held_out() -> None:
    held_out, learnt = wordings(held_out=True), wordings(held_out=False)
    assert set(CONSTRAINT_KINDS) == set(learnt.constraints) == set(held_out.constraints)
    assert {*QUESTION_KINDS, "briefly"} == set(learnt.questions) == set(held_out.questions)
    for name in ("requests", "constraints", "questions"):
        for kind, patterns in getattr(learnt, name).items():
            apart = getattr(held_out, name)[kind]
            assert not set(apart) & set(patterns)
            assert len(set(patterns)) == len(patterns) == 3 * len(apart) >= 6


def test_a_kind_is_the_same_whatever_kinds_stand_beside_it() -> None:
    alone = list(islice(generate_instructions("seen", seed=0, kinds=["title"]), 5))
    among = [i for i in draw("seen", 5 * len(KINDS)) if i.kind == "title"]
    assert alone == among[:5]


def test_sides_do_not_hang_on_the_order() -> None:
    items = [f"item {n}" for n in range(9)]
    assert set(one_side(items, held_out=True)) == set(one_side(items[::-1], held_out=True))


def test_every_prompt_is_whole() -> None:
    for part in PARTS:
        for instruction in draw(part, 300):
            assert "|" not in instruction.prompt
            assert instruction.prompt == instruction.prompt.strip()
            assert 1 <= len(instruction.constraints) <= 2
            assert {c.check for c in instruction.constraints} <= set(CHECKS)
            if instruction.kind != "json":
                assert "{" not in instruction.prompt


def test_each_test_part_has_one_and_two_constraints_but_unseen_kinds_stand_alone() -> None:
    counts = {part: Counter(len(i.constraints) for i in draw(part, 300)) for part in TEST_PARTS}
    assert counts["seen"][2] > 20
    assert counts["unseen_wording"][2] > 20
    assert counts["unseen_kind"][2] == 0


def test_a_reward_is_for_all_constraints_and_a_share_for_some() -> None:
    instruction = Instruction(
        kind="keywords",
        prompt="",
        constraints=(constraint("keywords", "sea"), constraint("no_comma")),
    )
    assert [instruction.reward(text) for text in ("the sea", "the sea, blue", "")] == [
        1.0,
        0.0,
        0.0,
    ]
    assert [instruction.share_kept(t) for t in ("the sea", "the sea, blue", "")] == [1.0, 0.5, 0.0]


def test_some_kinds_alone_can_be_asked_for() -> None:
    found = list(islice(generate_instructions("train", seed=0, kinds=["title", "copy"]), 20))
    assert Counter(i.kind for i in found) == {"title": 10, "copy": 10}
    with pytest.raises(ConfigurationError, match=r"^kinds: got 'haiku'"):
        next(generate_instructions("train", seed=0, kinds=["haiku"]))


def test_what_is_small_ends() -> None:
    found = list(generate_instructions("unseen_wording", seed=0, kinds=["capital"]))
    assert 50 < len(found) < 10_000


def test_both_sides_have_every_list() -> None:
    for side in (vocabulary(held_out=False), vocabulary(held_out=True)):
        assert all(getattr(side, name) for name in Vocabulary.__dataclass_fields__)


def test_there_are_three_test_parts() -> None:
    assert get_args(TestPart) == TEST_PARTS == ("seen", "unseen_wording", "unseen_kind")
