"""Instructions as the training pipeline and `aic eval` see them."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.tasks import named_task
from selfeval_backend.importing import import_function
from selfeval_backend.instructions import HELD_OUT_KINDS, TEST_PARTS
from selfeval_backend.instructions.task import prompts, score, score_share
from selfeval_backend.training.prompts import read_prompts
from selfeval_backend.training.recipe import PromptSettings

ANSWER = json.dumps(
    {"part": "seen", "kind": "title", "constraints": [["title", [], 1], ["keywords", ["sea"], 0]]}
)


def test_rows_are_of_every_split_and_all_test_parts() -> None:
    rows = list(prompts(train=40, calibration=6, test=9, validation=5))
    assert Counter(row["split"] for row in rows) == {
        "train": 40,
        "validation": 5,
        "calibration": 6,
        "test": 9,
    }
    parts = Counter(json.loads(row["answer"])["part"] for row in rows if row["split"] == "test")
    assert parts == dict.fromkeys(TEST_PARTS, 3)
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_training_has_no_held_out_kind() -> None:
    rows = prompts(train=200, calibration=50, test=0)
    assert not {json.loads(row["answer"])["kind"] for row in rows} & set(HELD_OUT_KINDS)


def test_the_answer_is_all_that_a_reward_needs() -> None:
    assert score("", "<<Waves>> The sea is blue.", ANSWER) == 1.0
    assert score("", "The sea is blue.", ANSWER) == 0.0
    assert score_share("", "The sea is blue.", ANSWER) == 0.5


def test_the_task_gives_each_part_a_third_and_names_it() -> None:
    task = named_task("instructions", n=30, seed=3)
    parts = Counter(item.prompt_id.split("/")[0] for item in task.items)
    assert parts == dict.fromkeys(TEST_PARTS, 10)
    assert len({item.prompt_id for item in task.items}) == 30
    assert [item.prompt for item in task.items] == [
        item.prompt for item in named_task("instructions", n=30, seed=3).items
    ]


def test_rewards_and_recorded_rows_say_the_same() -> None:
    for item in named_task("instructions", n=90, seed=0).items:
        for response in (
            "P.S. Yes! [name] *so* <<it>>",
            "positive",
            '"Well," he said.\n1. One',
            "",
        ):
            assert item.reward(response) == score(item.prompt, response, item.basis)


def test_short_answers_can_be_put_to_a_vote_and_texts_cannot() -> None:
    items = {i.prompt_id.split("/")[1]: i for i in named_task("instructions", n=90, seed=0).items}
    assert items["capital"].answer("It is PARIS.") == "it is paris"
    assert items["capital"].answer("...") is None
    assert items["title"].answer("<<Paris>>") is None


@pytest.mark.parametrize(("n", "seed", "field"), [(0, 0, "n"), (3_001, 0, "n"), (1, -1, "seed")])
def test_what_is_out_of_range_is_refused(n: int, seed: int, field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}: got "):
        named_task("instructions", n=n, seed=seed)


def test_a_recipe_takes_prompts_and_reward_by_import_path() -> None:
    source = {
        "kind": "function",
        "function": "selfeval_backend.instructions.task:prompts",
        "arguments": {"train": 4, "calibration": 2, "test": 3, "validation": 1},
    }
    read = list(read_prompts(PromptSettings.model_validate({"source": source})))
    assert [prompt.split for prompt in read] == [
        *["train"] * 4,
        "validation",
        *["calibration"] * 2,
        *["test"] * 3,
    ]
    reward = import_function("rewards", "selfeval_backend.instructions.task:score", num_arguments=3)
    assert reward(read[0].text, "", read[0].answer) == 0.0
