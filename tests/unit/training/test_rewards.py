"""Rewards: three scorers, and shards of what they say; what fails is kept with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from selfeval_backend.chat import Message
from selfeval_backend.errors import ConfigurationError, DatasetError, ModelFilesError
from selfeval_backend.hashing import Hasher
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.samples.store import read_rewards, reward_files, write_samples
from selfeval_backend.scorers import FunctionScorer, Scorer, Scoring
from selfeval_backend.training import stages
from selfeval_backend.training.recipe import MathReward, ModelReward, Recipe
from selfeval_backend.training.rewards import (
    RewardModelScorer,
    load_scorer,
    reward_inputs,
    score_files,
)
from tests.unit.samples.recorded import info, recording, sample
from tests.unit.training.conftest import MakeRecipe


def scoring(response: str, answer: str | None = None, prompt: str = "Q") -> Scoring:
    return Scoring(
        messages=(Message(role="user", content=prompt),), response=response, answer=answer
    )


@pytest.fixture(scope="module")
def math() -> Iterator[Scorer]:
    """The scorer of a recipe that says so; one process for all of these tests."""
    scorer = load_scorer(MathReward(kind="math", workers=1, timeout_s=60))
    yield scorer
    scorer.close()


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        ("So it is #### 42", "She has 40+2=42 ... #### 42", 1.0),
        ("#### 1,000", "#### 1000", 1.0),
        ("#### 43", "#### 42", 0.0),
        (r"thus \boxed{\frac{1}{2}}", r"\boxed{0.5}", 1.0),
        (r"first \boxed{3}, then \boxed{4}", "$4$", 1.0),
        ("The answer is 7.", "7", 1.0),
        ("I do not know.", "7", 0.0),
        ("", "7", 0.0),
        ("#### 5 #### 6", "#### 6", 1.0),
        ("#### $18", "#### 18", 1.0),
        ("#### -3", "#### -3", 1.0),
        ("#### 3,5", "#### 35", 0.0),
        ("#### 1,234", "#### 1,234", 1.0),
        (r"so \boxed{50\%}", "50", 1.0),
        ("#### 12345678901234567890", "#### 12345678901234567891", 0.0),
        ("#### " + "9" * 5000, "#### " + "9" * 4999 + "8", 0.0),
    ],
)
@pytest.mark.slow
def test_the_math_verifier(math: Scorer, response: str, answer: str, reward: float) -> None:
    (scored,) = math([scoring(response, answer)])
    assert (scored.reward, scored.error) == (reward, None)


@pytest.mark.slow
def test_without_a_reference_answer_there_is_no_reward(math: Scorer) -> None:
    results = math([scoring("#### 1"), scoring("#### 1", "nothing to parse")])
    assert all(r.reward is None and r.error for r in results)


def test_scorers_of_aic_eval_are_rewards_too(make_recipe: MakeRecipe) -> None:
    for name, expected in (("exact", [0.0, 1.0]), ("regex:[0-9,]+", [1.0, 1.0])):
        recipe = make_recipe(rewards={"kind": "scorer", "scorer": name, "workers": 1})
        scorer = load_scorer(recipe.rewards)
        given = [scoring("It is 1,000.", "1,000"), scoring("1,000", "1,000")]
        assert [scored.reward for scored in scorer(given)] == expected
        scorer.close()


@pytest.mark.parametrize(
    "sections",
    [
        {"rewards": {"kind": "function", "function": "bad_late:f"}},
        {"rewards": {"kind": "scorer", "scorer": "bad_late:f"}},
        {"report": {"answer": "bad_late:f"}},
    ],
)
def test_a_function_of_a_late_stage_is_refused_before_anything_is_drawn(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad_late.py").write_text("def f(:")
    with pytest.raises(ConfigurationError, match=r"SyntaxError in bad_late\.py, line 1"):
        stages.make_pipeline(make_recipe(**sections), progress=lambda *_: None, log=print)


def test_another_reading_or_function_is_another_stage(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hasher = Hasher(tmp_path / "hashes.json")

    def inputs(**rewards: Any) -> dict[str, Any]:
        return reward_inputs(make_recipe(rewards=rewards).rewards, hasher)

    Path("own_stage.py").write_text("def f(prompt, response, answer):\n    import aid_stage")
    Path("aid_stage.py").write_text("N = 1")
    first = inputs(kind="function", function="own_stage:f")
    assert inputs(kind="function", function="own_stage:f", workers=3) == first
    Path("aid_stage.py").write_text("N = 2")
    assert inputs(kind="function", function="own_stage:f") != first
    assert inputs(kind="scorer", scorer="exact") != inputs(kind="scorer", scorer="regex:a")


def own(prompt: str, response: str, answer: str | None) -> float:
    """Score by length: what a user's function does."""
    if response == "bad":
        raise KeyError("bad")
    return {"nan": float("nan"), "inf": float("inf")}.get(response, len(response))


def test_a_users_function_fails_for_its_row_only(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lengths.py").write_text(
        "def own(prompt, response, answer):\n"
        "    if response == 'bad':\n"
        "        raise KeyError('bad')\n"
        "    return {'nan': float('nan'), 'inf': float('inf')}.get(response, len(response))\n"
    )
    rewards = {"kind": "function", "function": "lengths:own", "workers": 1}
    scorer = load_scorer(make_recipe(rewards=rewards).rewards)
    results = scorer([scoring(r) for r in ("abc", "bad", "nan", "inf", "")])
    scorer.close()
    assert [r.reward for r in results] == [3.0, None, None, None, 0.0]
    assert [r.error for r in results if r.error] == [
        "KeyError: 'bad'",
        "the reward is nan, expected a finite number",
        "the reward is inf, expected a finite number",
    ]


@pytest.mark.parametrize("reference", ["no.such.module:f", "json:no_such", "json:__name__"])
def test_a_function_that_is_not_there(make_recipe: MakeRecipe, reference: str) -> None:
    recipe: Recipe = make_recipe(rewards={"kind": "function", "function": reference})
    with pytest.raises(ConfigurationError, match=r"rewards\.function"):
        load_scorer(recipe.rewards)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of the class that reward models are of."""
    return _save_model(tmp_path_factory.mktemp("rm"), num_labels=1)


def _save_model(folder: Path, num_labels: int) -> Path:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_FOLDER)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, **given: Any) -> ModelReward:
    return ModelReward.model_validate({"kind": "reward_model", "model": str(model), **given})


def test_batches_of_a_reward_model_are_single_forward_passes(reward_model: Path) -> None:
    responses = ["Add 3.", "Add 19: 44, 3 over.\nTake away 3: 41, exactly.", "no"]
    scorer = RewardModelScorer(settings(reward_model, batch_size=2))
    batched = [r.reward for r in scorer([scoring(r) for r in responses])]
    model = LlamaForSequenceClassification.from_pretrained(reward_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    for response, reward in zip(responses, batched, strict=True):
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": response}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            expected = model(input_ids=ids["input_ids"]).logits[0, 0].item()
        assert reward == pytest.approx(expected, abs=1e-5)


def test_what_is_too_long_for_a_reward_model_is_an_error_of_its_row(reward_model: Path) -> None:
    scorer = RewardModelScorer(settings(reward_model, max_tokens=20))
    short, long = scorer([scoring("a"), scoring("a" * 100)])
    assert short.reward is not None
    assert long.error is not None and "more than 20" in long.error


def test_a_classifier_is_no_reward_model(tmp_path: Path) -> None:
    scorer = RewardModelScorer(settings(_save_model(tmp_path, num_labels=3)))
    with pytest.raises(ModelFilesError, match="3 logits"):
        scorer([scoring("a")])
    with pytest.raises(ModelFilesError, match="there is no folder"):
        RewardModelScorer(settings(tmp_path / "none"))


def prompts(texts: Sequence[Sequence[str]]) -> list[PromptRecord]:
    made = [[replace(sample(k, [0.5]), text=text) for k, text in enumerate(mine)] for mine in texts]
    return list(recording(*made).prompts)


def score(tmp_path: Path, texts: Sequence[Sequence[str]], **given: Any) -> dict[str, Any]:
    samples = tmp_path / "rollouts"
    for place, prompt in enumerate(prompts(texts)):
        write_samples(samples, place, info(), [prompt])
    return score_files(
        samples,
        tmp_path / "rewards",
        load=given.pop("load", lambda: FunctionScorer(own)),
        max_error_share=given.pop("max_error_share", 0.5),
        name="rewards",
        progress=lambda *_: None,
    )


def test_errors_are_kept_and_counted_never_zero(tmp_path: Path) -> None:
    figures = score(tmp_path, [["a", "bad"], [], ["nan", "abcd"]])
    found = [each for path in reward_files(tmp_path / "rewards") for each in read_rewards(path)]
    assert [each.rewards for each in found] == [(1.0, None), (), (None, 4.0)]
    assert found[0].errors == (None, "KeyError: 'bad'")
    assert (figures["rewards"], figures["errors"], figures["mean"]) == (2, 2, 2.5)


def test_too_many_errors_stop_the_stage(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 of 2 rewards failed.*KeyError: 'bad'"):
        score(tmp_path, [["a", "bad"]], max_error_share=0.4)


def test_equal_rewards_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"all 2 rewards are 1\.0"):
        score(tmp_path, [["a", "b"]])


def test_scored_shards_are_not_scored_again(tmp_path: Path) -> None:
    texts = [["a", "bb"], ["ccc", "d"]]
    before = score(tmp_path, texts)

    def never() -> FunctionScorer:
        raise AssertionError("nothing is left to score")

    assert score(tmp_path, texts, load=never) == before
