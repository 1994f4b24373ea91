"""The preferences stage over stored rollouts: sets, a card, and what cannot be learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from selfeval_backend.errors import DatasetError
from selfeval_backend.hashing import Hasher
from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.samples.shards import iterate_rows, shards_of
from selfeval_backend.samples.store import write_rewards, write_samples
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.preferences import PreferenceStage, holds_cut_off
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.types import FinishReason
from tests.unit.samples.recorded import info, recording, sample
from tests.unit.training.conftest import MakeRecipe, make_pipeline


@dataclass
class Stored:
    """A stage that has stored this already."""

    name: str
    prompts: Sequence[PromptRecord]
    needs: tuple[str, ...] = ()

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        return {}

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        return []

    def run(self, place: Workplace) -> dict[str, Any]:
        for number, prompt in enumerate(self.prompts):
            write_samples(place.folder, number, info(), [prompt])
            write_rewards(place.folder, number, [prompt.rewards()])
        return {}


def prompt(number: int, split: str, rewards: Sequence[float | None]) -> PromptRecord:
    samples = [
        replace(
            sample(
                k, [0.5, 0.5], finish_reason=reason, reward=math.nan if reward is None else reward
            ),
            token_ids=(30 + number, 40 + k),
            error="it failed" if reward is None else None,
        )
        for k, (reason, reward) in enumerate(zip(REASONS, rewards, strict=True))
    ]
    made = recording(samples).prompts[0]
    return replace(
        made, key=f"{number}", prompt_id=f"{number:016x}", split=split, prompt_ids=(1, 2)
    )


REASONS: tuple[FinishReason, ...] = ("stop", "length", "stop")


def build(recipe: Recipe, rewards: Sequence[Sequence[float | None]]) -> tuple[Path, dict[str, Any]]:
    prompts = [
        prompt(n, "validation" if n == 1 else "train", mine) for n, mine in enumerate(rewards)
    ]
    pipeline, _ = make_pipeline(
        recipe, Stored("rollouts", prompts), Stored("rewards", prompts), PreferenceStage()
    )
    folder = pipeline.run("preferences")
    manifest = pipeline.manifest("preferences")
    assert manifest is not None
    return folder, manifest.figures


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(iterate_rows(shards_of(folder / name)))


MIXED = [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, None, 1.0], [0.5, 0.5, 0.5]]


def test_sets_and_counts(make_recipe: MakeRecipe) -> None:
    folder, figures = build(make_recipe(preferences={"num_cuts": 1}), MIXED)
    train = rows(folder, "train")
    assert [(row["prompt_id"][-1], row["sample"]) for row in train] == [
        *(("0", 0), ("0", 1), ("0", 2)),
        *(("2", 0), ("2", 2)),  # what has no reward is in no pair
        *(("3", 0), ("3", 1), ("3", 2)),
    ]
    assert [row["targets"] for row in train[:5]] == [[1.0], [0.5], [0.5], [0.0], [1.0]]
    assert {row["prompt_id"][-1] for row in rows(folder, "validation")} == {"1"}
    assert {k: figures[k] for k in ("train wins", "train ties", "train losses")} == {
        "train wins": 3,
        "train ties": 8,
        "train losses": 3,
    }


def test_an_end_token_closes_what_ended_by_itself(make_recipe: MakeRecipe) -> None:
    folder, _ = build(make_recipe(), MIXED)
    lengths = [len(row["response_ids"]) for row in rows(folder, "train")[:3]]
    assert lengths == [3, 2, 3]


@pytest.mark.parametrize(
    ("rewards", "whole_share", "holds"),
    [
        (MIXED, 1.0, True),
        ([[mine, None, other] for mine, _, other in MIXED], 1.0, False),  # it is in no pair
        (MIXED, 0.0, False),  # it is asked about where it was cut at random alone
    ],
)
def test_what_ended_at_max_tokens_is_told_where_it_is_asked_about_at_its_end(
    make_recipe: MakeRecipe, rewards: list[list[float | None]], whole_share: float, holds: bool
) -> None:
    folder, _ = build(make_recipe(preferences={"whole_share": whole_share}), rewards)
    ends = {rows(folder, "train")[0]["response_ids"][-1]}
    assert holds_cut_off([folder / "train", folder / "contrast"], ends) is holds


def test_contrast_rows_are_pairs_of_one_prompt(make_recipe: MakeRecipe) -> None:
    folder, figures = build(make_recipe(preferences={"contrast_pairs": 2}), MIXED)
    contrast = rows(folder, "contrast")
    assert figures["contrast pairs"] == 4
    for better, worse in zip(contrast[::2], contrast[1::2], strict=True):
        assert better["prompt_id"] == worse["prompt_id"]
        assert better["reward"] > worse["reward"]
        assert (set(better["targets"]), set(worse["targets"])) == ({1.0}, {0.0})


def test_the_card_says_what_is_in_it(make_recipe: MakeRecipe) -> None:
    folder, _ = build(make_recipe(), MIXED)
    card = (folder / "README.md").read_text()
    assert "wins 21.4%, ties 57.1%, losses 21.4%" in card
    assert "| train prompts | 3 |" in card


def test_balance_drops_from_the_larger_side(make_recipe: MakeRecipe) -> None:
    many = [[1.0, 1.0, 0.0]] * 200
    folder, figures = build(make_recipe(preferences={"balance": "downsample"}), many)
    low = sum(row["targets"][0] < 0.5 for row in rows(folder, "train"))
    high = len(rows(folder, "train")) - low
    assert low == 199
    assert high == pytest.approx(low, rel=0.2)
    assert figures["train left out for balance"] == 398 - high


def test_flipped_rewards_are_of_training_alone(make_recipe: MakeRecipe) -> None:
    folder, _ = build(make_recipe(preferences={"flip_share": 0.5}), [[1.0, 0.0, 0.0]] * 200)
    flipped = [row["reward"] != (row["sample"] == 0) for row in rows(folder, "train")]
    assert sum(flipped) / len(flipped) == pytest.approx(0.5, abs=0.08)
    assert [row["reward"] for row in rows(folder, "validation")] == [1.0, 0.0, 0.0]


def test_fewer_prompts(make_recipe: MakeRecipe) -> None:
    folder, _ = build(make_recipe(preferences={"max_prompts": 1}), MIXED)
    assert {row["prompt_id"][-1] for row in rows(folder, "train")} == {"0"}
    assert len(rows(folder, "validation")) == 3


@pytest.mark.parametrize(
    ("rewards", "what"),
    [
        ([[1.0, None, None], [1.0, 0.0, 0.0]], "two rewarded samples"),
        ([[0.5, 0.505, 0.5], [1.0, 0.0, 0.0]], "all pairs tie within 0.01"),
    ],
)
def test_what_cannot_be_learned_from(
    make_recipe: MakeRecipe, rewards: list[list[float | None]], what: str
) -> None:
    with pytest.raises(DatasetError, match=what):
        build(make_recipe(), rewards)
