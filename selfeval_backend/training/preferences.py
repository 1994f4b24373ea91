"""From rewards to what the self-evaluation should say: wins, ties and losses.

Source: arXiv 2410.02725, section 3: samples of one prompt are paired; the better one wins, near
equals tie, and a response is labelled by whether it wins or ties. By default we take the mean over
all pairs of a response instead of one random pair: the same expectation, with less noise.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfeval_backend.errors import DatasetError
from selfeval_backend.files import write_atomically
from selfeval_backend.hashing import Hasher
from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.samples.rewards import Comparison, compare
from selfeval_backend.samples.shards import (
    chunks_of,
    count_rows,
    iterate_rows,
    shard_name,
    shards_of,
    write_rows,
)
from selfeval_backend.samples.store import reward_files, rewarded
from selfeval_backend.training.base_model import load_asking, model_inputs
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.recipe import PreferenceSettings, Recipe

__all__ = [
    "EXAMPLE_SCHEMA",
    "Candidate",
    "Example",
    "PreferenceStage",
    "contrast_pairs",
    "holds_cut_off",
    "make_examples",
]

EXAMPLE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("reward", pa.float64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("cuts", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.float32())),
    ]
)
"""One row a response: where it is asked about, and what should be said there."""

_SHARD = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One rewarded sample of a prompt."""

    index: int
    """Its place among the prompt's samples."""
    reward: float
    num_tokens: int
    """Of the response, without the end token; at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A response, its cuts, and the probability of a win or tie that each should give."""

    index: int
    cuts: tuple[int, ...]
    """Tokens kept, the whole response last where it is asked about."""
    targets: tuple[float, ...]
    """One for each cut."""
    outcomes: tuple[Comparison, ...] = ()
    """Against each opponent."""

    @property
    def target(self) -> float:
        """The mean label."""
        return sum(self.targets) / len(self.targets)


def make_examples(
    candidates: Sequence[Candidate], settings: PreferenceSettings, rng: random.Random
) -> list[Example]:
    """Pair the samples of one prompt, and label each by its pairs.

    Args:
        candidates: Of one prompt.
        settings: Which pairs, which labels, which cuts.
        rng: Chooses pairs and cuts.

    Returns:
        One example for each sample that is in a pair that counts; none for fewer than two
        candidates.
    """
    outcomes: dict[int, list[Comparison]] = {c.index: [] for c in candidates}
    for mine, other in _pairs(candidates, settings, rng):
        outcome = compare(mine.reward, other.reward, tie_threshold=settings.tie_threshold)
        if outcome != "tie" or settings.ties == "keep":
            outcomes[mine.index].append(outcome)
    if settings.mixed_only and not any("loss" in found for found in outcomes.values()):
        return []
    return [
        _example(candidate, tuple(outcomes[candidate.index]), settings, rng)
        for candidate in candidates
        if outcomes[candidate.index]
    ]


def _pairs(
    candidates: Sequence[Candidate], settings: PreferenceSettings, rng: random.Random
) -> list[tuple[Candidate, Candidate]]:
    """Ordered pairs: the first is labelled against the second."""
    if len(candidates) < 2:
        return []
    if settings.pairs == "random":
        return [(mine, rng.choice([c for c in candidates if c is not mine])) for mine in candidates]
    unordered = list(combinations(candidates, 2))
    if settings.pairs != "all":
        unordered = rng.sample(unordered, min(settings.pairs, len(unordered)))
    return [pair for a, b in unordered for pair in ((a, b), (b, a))]


def _example(
    candidate: Candidate,
    outcomes: tuple[Comparison, ...],
    settings: PreferenceSettings,
    rng: random.Random,
) -> Example:
    cuts = _cuts(candidate.num_tokens, settings, rng)
    labels = [0.0 if outcome == "loss" else 1.0 for outcome in outcomes]
    if settings.labels == "soft":
        targets = (sum(labels) / len(labels),) * len(cuts)
    else:
        targets = tuple(rng.choice(labels) for _ in cuts)
    return Example(index=candidate.index, cuts=cuts, targets=targets, outcomes=outcomes)


def _cuts(length: int, settings: PreferenceSettings, rng: random.Random) -> tuple[int, ...]:
    """Uniform over tokens, ascending; the whole response with the share that is asked for."""
    if not settings.cut_at_random or length == 1:
        return (length,)
    asked_whole = rng.random() < settings.whole_share
    num_cuts = settings.num_cuts - asked_whole
    cuts = sorted(rng.sample(range(1, length), min(num_cuts, length - 1)))
    return (*cuts, length) if asked_whole else tuple(cuts)


def contrast_pairs(
    candidates: Sequence[Candidate], settings: PreferenceSettings, rng: random.Random
) -> list[tuple[Example, Example]]:
    """Draw pairs of one of a prompt's best samples and a worse one, labelled 1 and 0.

    Returns:
        `contrast_pairs` pairs, each with cuts of its own; none where all samples tie.
    """
    best = max((c.reward for c in candidates), default=0.0)
    right = [c for c in candidates if c.reward == best]
    wrong = [c for c in candidates if c.reward < best - settings.tie_threshold]
    if not wrong:
        return []

    def labelled(candidate: Candidate, target: float) -> Example:
        cuts = _cuts(candidate.num_tokens, settings, rng)
        return Example(index=candidate.index, cuts=cuts, targets=(target,) * len(cuts))

    return [
        (labelled(rng.choice(right), 1.0), labelled(rng.choice(wrong), 0.0))
        for _ in range(settings.contrast_pairs)
    ]


class PreferenceStage:
    """Turns rewarded samples into examples, and describes them in a card."""

    name = "preferences"
    needs = ("rollouts", "rewards")

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the settings, and the model that says what ends a turn."""
        return {
            **model_inputs(recipe, hasher),
            "preferences": recipe.preferences.model_dump(mode="json"),
            "seed": recipe.seed,
        }

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say how prompts become examples."""
        chosen = recipe.preferences
        lines = [
            f"{chosen.labels} labels of {chosen.pairs} pairs a prompt, "
            f"ties up to {chosen.tie_threshold}"
        ]
        if "rewards" in upstream:
            lines.append(f"{count_rows(reward_files(upstream['rewards'])):,} prompts have rewards")
        return lines

    def run(self, place: Workplace) -> dict[str, Any]:
        """Write all sets; a stopped run starts over, for this is quick."""
        for name in ("train", "validation", "contrast"):
            shutil.rmtree(place.folder / name, ignore_errors=True)
        writer = _Writer(place)
        counts = writer.write()
        if not counts["train examples"]:
            raise DatasetError(
                "no training prompt has two rewarded samples to compare "
                f"({dict(counts)}): draw at least two samples a prompt"
            )
        if not counts["train losses"]:
            raise DatasetError(
                f"all pairs tie within {place.recipe.preferences.tie_threshold}: nothing can be "
                "learned. Lower preferences.tie_threshold, or look at the rewards."
            )
        write_atomically(place.folder / "README.md", _card(place.recipe, counts))
        return dict(counts)


class _Writer:
    """Streams samples with their rewards into sets of examples."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._recipe = place.recipe
        asking = load_asking(place.recipe)
        follow_up, ends = asking.evaluator.question_ids, asking.chat.end_token_ids
        self._end_id = follow_up[0] if follow_up[0] in ends else min(ends)
        self._counts: Counter[str] = Counter()

    def write(self) -> Counter[str]:
        """Write every set, and count what went into them."""
        keep = self._keep_shares()
        self._write("train", self._examples("train", keep))
        self._write("validation", self._examples("validation", {}))
        if self._recipe.preferences.contrast_pairs:
            self._write("contrast", self._contrast())
        return self._counts

    def _write(self, name: str, rows: Iterator[dict[str, Any]]) -> None:
        folder = self._place.folder / name
        folder.mkdir()
        num_rows = 0
        for index, chunk in enumerate(chunks_of(rows, _SHARD)):
            write_rows(folder / shard_name(index), chunk, EXAMPLE_SCHEMA)
            num_rows += len(chunk)
            self._place.progress(f"preferences: {name}", num_rows, num_rows)

    def _keep_shares(self) -> dict[bool, float]:
        """Share of the examples below (False) and from one half (True) that is kept."""
        if self._recipe.preferences.balance == "none":
            return {}
        found = Counter(e.target >= 0.5 for _, _, examples in self._made("train") for e in examples)
        least = min(found[False], found[True])
        return {side: least / found[side] if found[side] else 1.0 for side in (False, True)}

    def _examples(self, split: str, keep: dict[bool, float]) -> Iterator[dict[str, Any]]:
        counts = self._counts
        for prompt, rewards, examples in self._made(split):
            counts[f"{split} prompts"] += 1
            for example in examples:
                chance = _rng(self._recipe, "balance", prompt.prompt_id, example.index).random()
                if chance >= keep.get(example.target >= 0.5, 1.0):
                    counts[f"{split} left out for balance"] += 1
                    continue
                counts[f"{split} examples"] += 1
                counts[f"{split} cuts"] += len(example.cuts)
                for outcome, number in Counter(example.outcomes).items():
                    counts[f"{split} {_PLURAL[outcome]}"] += number
                yield self._row(prompt, rewards[example.index], example)

    def _made(
        self, split: str
    ) -> Iterator[tuple[PromptRecord, Mapping[int, float], list[Example]]]:
        for prompt, candidates in self._rewarded(split):
            rng = _rng(self._recipe, "pairs", prompt.prompt_id)
            rewards = {c.index: c.reward for c in candidates}
            yield prompt, rewards, make_examples(candidates, self._recipe.preferences, rng)

    def _contrast(self) -> Iterator[dict[str, Any]]:
        for prompt, candidates in self._rewarded("train"):
            rng = _rng(self._recipe, "contrast", prompt.prompt_id)
            rewards = {c.index: c.reward for c in candidates}
            for pair in contrast_pairs(candidates, self._recipe.preferences, rng):
                self._counts["contrast pairs"] += 1
                for example in pair:
                    yield self._row(prompt, rewards[example.index], example)

    def _rewarded(self, split: str) -> Iterator[tuple[PromptRecord, list[Candidate]]]:
        settings, upstream = self._recipe.preferences, self._place.upstream
        limit = settings.max_prompts if split == "train" else None
        flips = settings.flip_share if split == "train" else 0.0
        of_split = (
            prompt
            for prompt in rewarded(upstream["rollouts"], upstream["rewards"])
            if prompt.split == split
        )
        for prompt in islice(of_split, limit):
            rng = _rng(self._recipe, "flip", prompt.prompt_id)
            yield prompt, list(_candidates(prompt, rng, flips))

    def _row(self, prompt: PromptRecord, reward: float, example: Example) -> dict[str, Any]:
        sample = prompt.samples[example.index]
        end = (self._end_id,) if sample.finish_reason == "stop" else ()
        return {
            "prompt_id": prompt.prompt_id,
            "sample": example.index,
            "reward": reward,
            "prompt_ids": prompt.prompt_ids,
            "response_ids": sample.token_ids + end,
            "cuts": example.cuts,
            "targets": example.targets,
        }


def _candidates(prompt: PromptRecord, rng: random.Random, flips: float) -> Iterator[Candidate]:
    """Yield the samples that have tokens and a reward, which is flipped now and then."""
    for place, sample in enumerate(prompt.samples):
        if sample.error is None and sample.token_ids:
            reward = 1.0 - sample.reward if rng.random() < flips else sample.reward
            yield Candidate(index=place, reward=reward, num_tokens=len(sample.token_ids))


def holds_cut_off(folders: Sequence[Path], end_token_ids: Collection[int]) -> bool:
    """Tell whether examples hold a response that ended at max_tokens, asked about at its end.

    Such a one has no end token; cuts within a response do not count.

    Args:
        folders: Of examples.
        end_token_ids: Tokens that end a response.
    """
    shards = [path for folder in folders for path in shards_of(folder)]
    return any(
        row["response_ids"][-1] not in end_token_ids and row["cuts"][-1] == len(row["response_ids"])
        for row in iterate_rows(shards, columns=["response_ids", "cuts"])
    )


_PLURAL: Mapping[Comparison, str] = {"win": "wins", "tie": "ties", "loss": "losses"}


def _rng(recipe: Recipe, *names: object) -> random.Random:
    """Randomness of one prompt: the same whatever else there is."""
    return random.Random("/".join(map(str, (recipe.seed, *names))))


def _card(recipe: Recipe, counts: Mapping[str, int]) -> str:
    rows = "\n".join(f"| {name} | {counts[name]:,} |" for name in sorted(counts))
    settings = json.dumps(recipe.preferences.model_dump(mode="json"), indent=1)
    total = sum(counts.get(f"train {name}", 0) for name in _PLURAL.values())
    shares = ", ".join(
        f"{name} {counts.get(f'train {name}', 0) / total:.1%}" for name in _PLURAL.values()
    )
    return f"""\
# Preferences of {recipe.name}

On-policy samples of `{recipe.model}`, paired within their prompt. A response is labelled by
whether it wins or ties (1) or loses (0) against others of the same prompt; rewards that differ by
no more than {recipe.preferences.tie_threshold} tie. No prompt is in two splits.

Of the training labels: {shares}.

| | |
|---|---|
{rows}

Files: `train/`, `validation/`, `contrast/`: Parquet, one row a response with the tokens of prompt
and response, the cuts (response tokens kept) and what the self-evaluation should say at each.

```json
{settings}
```
"""
