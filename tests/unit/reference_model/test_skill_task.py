"""Puzzles and skills as the training pipeline sees them."""

from __future__ import annotations

import json
from collections import Counter

from reference_model.skill_task import answer_of_response, score
from selfeval_backend.training.prompts import read_prompts
from selfeval_backend.training.recipe import PromptSettings

COUNTS = {"train": 60, "validation": 8, "calibration": 20, "test": 30}
FUNCTION = "reference_model.skill_task:prompts"


def test_prompts_are_of_puzzles_and_of_skills_in_every_split() -> None:
    source = {"kind": "function", "function": FUNCTION, "arguments": COUNTS}
    read = list(read_prompts(PromptSettings.model_validate({"source": source})))
    skilled = Counter(p.split for p in read if p.answer is not None and p.answer[0] == "{")
    assert Counter(prompt.split for prompt in read) == COUNTS
    assert skilled == {split: count // 2 for split, count in COUNTS.items()}
    assert len({prompt.prompt_id for prompt in read}) == len(read)
    assert {turn.role for prompt in read for turn in prompt.messages} == {
        "system",
        "user",
        "assistant",
    }


def test_a_score_is_that_of_the_skill_or_of_the_puzzle() -> None:
    assert score("", "#### -3 + 19 + 25", "3,19,25=41") == 1.0
    assert score("", "#### 3 + 19 + 25", "3,19,25=41") == 0.0
    assert score("", "A. Answer: 43", json.dumps({"answer": "43"})) == 1.0
    assert score("", "A. Answer: 44", json.dumps({"answer": "43"})) == 0.0


def test_what_counts_of_a_response() -> None:
    assert answer_of_response("#### 25 + 19 - 3") == answer_of_response("#### -3 + 19 + 25")
    assert answer_of_response("Milo Vorn is 43 years old. Answer: 43") == "43"
    assert answer_of_response('{"name": "now", "arguments": {}}') is not None
    assert answer_of_response("") is None
