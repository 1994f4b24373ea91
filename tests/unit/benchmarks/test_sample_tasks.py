"""What samples are drawn of: the prompts of each task, and which answers compare."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.sample_tasks import TASKS, Asked


def first(name: str, n: int, *, seed: int = 0) -> list[Asked]:
    return list(islice(TASKS[name].prompts(seed), n))


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_the_same_for_a_seed_and_others_for_another(name: str) -> None:
    assert first(name, 30) == first(name, 30)
    assert len({asked.prompt for asked in first(name, 30)}) == 30
    assert first(name, 5) != first(name, 5, seed=1)


def test_short_answers_compare_by_their_words_and_texts_do_not() -> None:
    asked = first("instructions", 200)
    final_answer = TASKS["instructions"].final_answer
    question = next(a for a in asked if a.kind == "capital")
    text = next(a for a in asked if a.kind == "bullets")
    assert final_answer("It is Paris.", question.answer) == "it is paris"
    assert final_answer(" ... ", question.answer) is None
    assert final_answer("It is Paris.", text.answer) is None


def test_puzzles_compare_by_their_sums() -> None:
    task = TASKS["puzzles"]
    assert task.final_answer("#### 19 + 25 - 3", "3,19,25=41") == "+25+19-3"
    assert task.score("", "#### 19 + 25 - 3", "3,19,25=41") == 1.0
    assert task.score("", "#### 19 + 25 + 3", "3,19,25=41") == 0.0


def test_sums_compare_by_what_is_in_the_box() -> None:
    task = TASKS["sums"]
    assert task.final_answer(r"\boxed{7.0}", "8") == "7"
    assert task.score("", r"\boxed{8}", "8") == task.score_share("", r"\boxed{8}", "8") == 1.0
