"""Rewards of responses: a verifier, a reward model, or the user's own function.

A response whose reward fails is kept with the reason and left out of the preferences; it is never
given a reward of zero.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from selfeval_backend.chat import Message
from selfeval_backend.checkpoints import locate_checkpoint
from selfeval_backend.errors import CheckpointError, DatasetError, MissingDependencyError
from selfeval_backend.importing import import_function, source_of
from selfeval_backend.training.hashing import Hasher, digest_of
from selfeval_backend.training.pipeline import Progress, Workplace
from selfeval_backend.training.recipe import (
    FunctionReward,
    MathReward,
    ModelReward,
    Recipe,
    RewardSettings,
)
from selfeval_backend.training.shards import count_rows, iterate_rows, shards_of, write_rows

__all__ = [
    "REWARD_SCHEMA",
    "FunctionScorer",
    "MathScorer",
    "RewardModelScorer",
    "RewardStage",
    "Scored",
    "Scorer",
    "Scoring",
    "load_scorer",
    "reward_inputs",
    "score_shards",
]

REWARD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("rewards", pa.list_(pa.float64())),
        ("errors", pa.list_(pa.string())),
    ]
)
"""One row a prompt, in the order of the rollouts; of each sample a reward or an error."""

_LONGEST_ANSWER = 4000
"""Characters that are searched for an answer, from the end."""
_FINAL = re.compile(r"####\s*(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A response, and what it answers."""

    messages: tuple[Message, ...]
    response: str
    answer: str | None
    """The reference answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A reward, or why there is none."""

    reward: float | None = None
    """Finite; high is good."""
    error: str | None = None


class Scorer(Protocol):
    """Gives rewards to batches of responses."""

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response, in order; what fails for one is an error of it."""
        ...


def load_scorer(settings: RewardSettings) -> Scorer:
    """Return the scorer that a recipe names.

    Raises:
        ConfigurationError: The function cannot be imported.
        CheckpointError: The reward model cannot be loaded.
        MissingDependencyError: math-verify is not installed.
    """
    match settings:
        case MathReward():
            return MathScorer()
        case ModelReward():
            return RewardModelScorer(settings)
        case FunctionReward():
            return FunctionScorer(import_function("rewards.function", settings.function))


class FunctionScorer:
    """A user's function.

    Args:
        function: Takes prompt (the text of the last message), response and answer.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response."""
        return [self._score(item) for item in items]

    def _score(self, item: Scoring) -> Scored:
        try:
            value = self._function(item.messages[-1].content, item.response, item.answer)
            return _finite(float(value))
        except Exception as error:  # noqa: BLE001  # a user's code may raise anything
            return Scored(error=f"{type(error).__name__}: {error}")


def _finite(value: float) -> Scored:
    if not math.isfinite(value):
        return Scored(error=f"the reward is {value}")
    return Scored(reward=value)


class MathScorer:
    r"""1 where the response's answer is mathematically equal to the reference answer, else 0.

    What stands behind the last ``####`` of a response is its answer, else what math-verify finds
    (the last ``\boxed{}``, else the last number or expression). A response without any answer
    is wrong, not an error.

    Raises:
        MissingDependencyError: math-verify is not installed.
    """

    def __init__(self) -> None:
        try:
            import math_verify
        except ImportError as error:
            raise MissingDependencyError("math-verify", extra="train") from error
        # Its time limits need signals, which only a main thread gets; long texts are cut instead.
        self._library: Any = math_verify

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response."""
        return [self._score(item) for item in items]

    def _score(self, item: Scoring) -> Scored:
        if item.answer is None:
            return Scored(error="there is no reference answer")
        try:
            gold = self._parse(item.answer)
            if not gold:
                return Scored(error=f"the reference answer {item.answer[:40]!r} cannot be parsed")
            equal = self._library.verify(
                gold, self._parse(item.response), timeout_seconds=None, raise_on_error=True
            )
            return Scored(reward=float(equal))
        except Exception as error:  # noqa: BLE001  # sympy raises nearly anything
            return Scored(error=f"{type(error).__name__}: {error}")

    def _parse(self, text: str) -> list[Any]:
        parsed: list[Any] = self._library.parse(
            _answer_of(text)[-_LONGEST_ANSWER:], parsing_timeout=None, raise_on_error=True
        )
        return parsed


def _answer_of(text: str) -> str:
    r"""Return what stands behind the last ``####``, else from the last ``\boxed`` on, else all."""
    if found := _FINAL.findall(text):
        plain = found[-1].strip().replace(",", "").strip("$")  # GSM8K writes 1,000 for 1000
        return f"${plain}$"
    return text[max(text.rfind("\\boxed"), 0) :]


class RewardModelScorer:
    """A sequence-classification reward model, through transformers.

    Its reward is the output's ``score`` where it has one (ArmoRM), else its one logit.

    Args:
        settings: Model and batch.

    Raises:
        CheckpointError: It cannot be loaded, has no chat template, or more than one logit.
    """

    def __init__(self, settings: ModelReward) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._settings = settings
        folder = locate_checkpoint(settings.model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype: Any = settings.dtype
        if dtype == "auto" and device.type == "cpu":
            dtype = torch.float32
        trust = settings.trust_remote_code
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                folder, trust_remote_code=trust, dtype=dtype
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{settings.model} cannot be loaded: {error}") from error
        self._model.to(device).eval()
        if self._tokenizer.chat_template is None:
            raise CheckpointError(f"{settings.model}: its tokenizer has no chat template")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._tokenizer.padding_side = "right"

    def __call__(self, items: Sequence[Scoring]) -> list[Scored]:
        """Return one result for each response; short with short, so that little is padded."""
        sequences = [self._encode(item) for item in items]
        order = sorted(range(len(items)), key=lambda i: len(sequences[i]))
        limit = self._settings.max_tokens
        fits = [i for i in order if len(sequences[i]) <= limit]
        scored = [Scored(error=f"{len(s)} tokens, more than {limit}") for s in sequences]
        size = self._settings.batch_size
        for start in range(0, len(fits), size):
            chunk = fits[start : start + size]
            rewards = self._rewards([sequences[i] for i in chunk])
            for i, reward in zip(chunk, rewards, strict=True):
                scored[i] = _finite(reward)
        return scored

    def _encode(self, item: Scoring) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in item.messages]
        turns.append({"role": "assistant", "content": item.response})
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _rewards(self, sequences: Sequence[list[int]]) -> list[float]:
        import torch

        batch = self._tokenizer.pad({"input_ids": list(sequences)}, return_tensors="pt")
        with torch.inference_mode():
            output = self._model(**batch.to(self._model.device))
        score = getattr(output, "score", None)
        if score is None:
            if output.logits.shape[-1] != 1:
                raise CheckpointError(
                    f"{self._settings.model} has {output.logits.shape[-1]} logits and no score, so "
                    "it is no reward model"
                )
            score = output.logits[:, 0]
        rewards: list[float] = score.float().reshape(-1).tolist()
        return rewards


def score_shards(
    rollouts: Path,
    folder: Path,
    *,
    load: Callable[[], Scorer],
    max_error_share: float,
    name: str,
    progress: Progress,
) -> dict[str, Any]:
    """Give every sample of rollout shards a reward, shard by shard.

    Args:
        rollouts: Folder of rollout shards.
        folder: Of the reward shards: same names, same rows in the same order.
        load: Returns the scorer; not called where nothing is left to do.
        max_error_share: Of all samples.
        name: Of this, for progress.
        progress: Told of every prompt.

    Returns:
        Counts, and mean reward.

    Raises:
        DatasetError: More rewards fail than `max_error_share`; names the commonest reason.
    """
    shards = shards_of(rollouts)
    total, num_done = count_rows(shards), 0
    scorer: Scorer | None = None
    for shard in shards:
        target = folder / shard.name
        if not target.exists():
            scorer = scorer or load()
            write_rows(target, _score_shard(shard, scorer), REWARD_SCHEMA)
        num_done += count_rows([target])
        progress(name, num_done, total)
    return _checked(folder, max_error_share)


def _score_shard(shard: Path, scorer: Scorer) -> list[dict[str, Any]]:
    rows = list(iterate_rows([shard], columns=["key", "messages", "answer", "samples"]))
    items = [
        Scoring(
            messages=tuple(Message(**message) for message in json.loads(row["messages"])),
            response=sample["text"],
            answer=row["answer"],
        )
        for row in rows
        for sample in row["samples"]
    ]
    results = iter(scorer(items))
    scored = []
    for row in rows:
        mine = [next(results) for _ in row["samples"]]
        scored.append(
            {
                "key": row["key"],
                "rewards": [s.reward for s in mine],
                "errors": [s.error for s in mine],
            }
        )
    return scored


def _checked(folder: Path, max_error_share: float) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    count, total, lowest, highest = 0, 0.0, math.inf, -math.inf
    for row in iterate_rows(shards_of(folder)):
        reasons.update(error for error in row["errors"] if error is not None)
        for reward in row["rewards"]:
            if reward is not None:
                count, total = count + 1, total + reward
                lowest, highest = min(lowest, reward), max(highest, reward)
    errors = reasons.total()
    if errors > max_error_share * (count + errors) or not count:
        reason = reasons.most_common(1)[0][0] if reasons else "there is no sample"
        raise DatasetError(
            f"{errors:,} of {count + errors:,} rewards failed, more than max_error_share "
            f"({max_error_share:.0%}); most often: {reason}"
        )
    if lowest == highest:
        raise DatasetError(
            f"all {count:,} rewards are {lowest}: nothing can be learned from them. Look at the "
            f"reward and its answers; responses are in {folder.parent}."
        )
    return {
        "rewards": count,
        "errors": errors,
        "mean": total / count,
        "lowest": lowest,
        "highest": highest,
        "error_reasons": dict(reasons.most_common(5)),
    }


def reward_inputs(settings: RewardSettings, hasher: Hasher) -> dict[str, Any]:
    """Return what tells one reward from another."""
    found: dict[str, Any] = {"rewards": settings.model_dump(mode="json")}
    match settings:
        case FunctionReward():
            function = import_function("rewards.function", settings.function)
            found["source of the function"] = digest_of(source_of(function))
        case ModelReward() if Path(settings.model).is_dir():
            found["reward model"] = hasher.folder(Path(settings.model))
        case _:
            pass
    return found


class RewardStage:
    """Rewards of the base model's samples."""

    name = "rewards"
    needs = ("rollouts",)

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return the reward's settings, and the content of its function or model."""
        return reward_inputs(recipe.rewards, hasher)

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say which reward, and of how many prompts."""
        if isinstance(recipe.rewards, MathReward):
            load_scorer(recipe.rewards)
        rows = count_rows(shards_of(upstream["rollouts"])) if "rollouts" in upstream else None
        of = "every sample" if rows is None else f"the samples of {rows:,} prompts"
        return [f"{recipe.rewards.kind} rewards of {of}"]

    def run(self, place: Workplace) -> dict[str, Any]:
        """Score what is not scored yet."""
        settings = place.recipe.rewards
        return score_shards(
            place.upstream["rollouts"],
            place.folder,
            load=lambda: load_scorer(settings),
            max_error_share=settings.max_error_share,
            name=self.name,
            progress=place.progress,
        )
