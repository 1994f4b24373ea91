"""Rewards of responses: a verifier, a reward model, or the user's own function.

A response whose reward fails is kept with the reason and left out of the preferences; it is never
given a reward of zero.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfeval_backend import scorers
from selfeval_backend.errors import DatasetError, ModelFilesError
from selfeval_backend.hashing import Hasher
from selfeval_backend.importing import source_digest
from selfeval_backend.model import locate_model_files
from selfeval_backend.samples.recorder import Progress
from selfeval_backend.samples.rewards import Rewards, refuse_failures
from selfeval_backend.samples.shards import count_rows, shard_name
from selfeval_backend.samples.store import (
    read_rewards,
    read_samples,
    reward_files,
    sample_files,
    write_rewards,
)
from selfeval_backend.scorers import (
    Scored,
    Scorer,
    ScorerSpec,
    Scoring,
    identify,
    read_spec,
    reward_of,
)
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.recipe import (
    FunctionReward,
    MathReward,
    ModelReward,
    Recipe,
    RewardSettings,
    ScorerReward,
)

__all__ = [
    "RewardModelScorer",
    "RewardStage",
    "load_scorer",
    "reward_inputs",
    "score_files",
    "scorer_spec",
]


def load_scorer(settings: RewardSettings) -> Scorer:
    """Return the scorer that a recipe names; close it in the end.

    Raises:
        ConfigurationError: The function cannot be imported.
        ModelFilesError: The reward model cannot be loaded.
        MissingDependencyError: math-verify is not installed.
    """
    if isinstance(settings, ModelReward):
        return RewardModelScorer(settings)
    return scorers.load_scorer(
        scorer_spec(settings),
        field=_field(settings),
        with_rows=False,
        timeout_s=settings.timeout_s,
        workers=settings.workers,
    )


def scorer_spec(settings: MathReward | FunctionReward | ScorerReward) -> ScorerSpec:
    """Return the scorer that a recipe names, by its name.

    Raises:
        ConfigurationError: There is no such scorer.
        MissingDependencyError: math-verify is not installed.
    """
    match settings:
        case MathReward():
            name = "math"
        case FunctionReward():
            name = settings.function
        case ScorerReward():
            name = settings.scorer
    return read_spec(_field(settings), name, extra="train")


def _field(settings: MathReward | FunctionReward | ScorerReward) -> str:
    return {"math": "rewards.kind"}.get(settings.kind, f"rewards.{settings.kind}")


class RewardModelScorer:
    """A sequence-classification reward model, through transformers.

    Its reward is the output's ``score`` where it has one (ArmoRM), else its one logit.

    Args:
        settings: Model and batch.

    Raises:
        ModelFilesError: It cannot be loaded, has no chat template, or more than one logit.
    """

    def __init__(self, settings: ModelReward) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._settings = settings
        folder = locate_model_files(settings.model)
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
            raise ModelFilesError(f"{settings.model} cannot be loaded: {error}") from error
        self._model.to(device).eval()
        if self._tokenizer.chat_template is None:
            raise ModelFilesError(f"{settings.model}: its tokenizer has no chat template")
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
                scored[i] = reward_of(reward)
        return scored

    def close(self) -> None:
        """Do nothing: the model goes with its scorer."""

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
                raise ModelFilesError(
                    f"{self._settings.model} has {output.logits.shape[-1]} logits and no score, so "
                    "it is no reward model"
                )
            score = output.logits[:, 0]
        rewards: list[float] = score.float().reshape(-1).tolist()
        return rewards


def score_files(
    samples: Path,
    folder: Path,
    *,
    load: Callable[[], Scorer],
    max_error_share: float,
    name: str,
    progress: Progress,
) -> dict[str, Any]:
    """Give every sample of a folder a reward, file by file.

    Args:
        samples: Folder of the samples.
        folder: Of the rewards: files of the same numbers, with the same rows in the same order.
        load: Returns the scorer; not called where nothing is left to do.
        max_error_share: Of all samples.
        name: Of this, for progress.
        progress: Told of every prompt.

    Returns:
        Counts, and mean reward.

    Raises:
        DatasetError: More rewards fail than `max_error_share`; names the commonest reason.
    """
    files = sample_files(samples)
    total, num_done = count_rows(files), 0
    scorer: Scorer | None = None
    try:
        for number, path in enumerate(files):
            target = folder / shard_name(number, "rewards")
            if not target.exists():
                scorer = scorer or load()
                write_rewards(folder, number, _scored(path, scorer))
            num_done += count_rows([target])
            progress(name, num_done, total)
    finally:
        if scorer is not None:
            scorer.close()
    return _checked(folder, max_error_share)


def _scored(path: Path, scorer: Scorer) -> list[Rewards]:
    prompts = list(read_samples(path))
    items = [
        Scoring(messages=prompt.messages, response=sample.text, answer=prompt.reference)
        for prompt in prompts
        for sample in prompt.samples
    ]
    results = iter(scorer(items))
    return [_rewards(prompt.key, [next(results) for _ in prompt.samples]) for prompt in prompts]


def _rewards(key: str, scored: Sequence[Scored]) -> Rewards:
    return Rewards(
        key=key,
        scored_by=None,  # the folder says it: it is named after what decides them
        rewards=tuple(s.reward for s in scored),
        errors=tuple(s.error for s in scored),
        answers=tuple(s.answer for s in scored),
    )


def _checked(folder: Path, max_error_share: float) -> dict[str, Any]:
    rewards = array("d")
    reasons: Counter[str] = Counter()
    for found in (each for path in reward_files(folder) for each in read_rewards(path)):
        rewards.extend(reward for reward in found.rewards if reward is not None)
        reasons.update(reason for reason in found.errors if reason is not None)
    errors = reasons.total()
    refuse_failures(
        ((reason, "the samples") for reason in reasons.elements()),
        num_rewards=len(rewards) + errors,
        num_planned=len(rewards) + errors,
        max_error_share=max_error_share,
    )
    if not rewards:
        raise DatasetError("there is no sample to reward")
    lowest, highest = min(rewards), max(rewards)
    if lowest == highest:
        raise DatasetError(
            f"all {len(rewards):,} rewards are {lowest}: nothing can be learned from them. Look at "
            f"the reward and its answers; responses are in {folder.parent}."
        )
    return {
        "rewards": len(rewards),
        "errors": errors,
        "mean": math.fsum(rewards) / len(rewards),
        "lowest": lowest,
        "highest": highest,
        "error_reasons": dict(reasons.most_common(5)),
    }


def reward_inputs(settings: RewardSettings, hasher: Hasher) -> dict[str, Any]:
    """Return what tells one reward from another."""
    # What is not set, and how many processes there are, changes no reward.
    found: dict[str, Any] = {
        "rewards": settings.model_dump(mode="json", exclude_none=True, exclude={"workers"})
    }
    if isinstance(settings, ModelReward):
        if Path(settings.model).is_dir():
            found["reward model"] = hasher.folder(Path(settings.model))
        return found
    spec = scorer_spec(settings)
    if spec.kind == "function":
        found["source of the function"] = source_digest(spec.detail)
    else:
        found["scorer"] = identify(spec).digest
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
        rows = count_rows(sample_files(upstream["rollouts"])) if "rollouts" in upstream else None
        of = "every sample" if rows is None else f"the samples of {rows:,} prompts"
        return [f"{recipe.rewards.kind} rewards of {of}"]

    def run(self, place: Workplace) -> dict[str, Any]:
        """Score what is not scored yet."""
        settings = place.recipe.rewards
        return score_files(
            place.upstream["rollouts"],
            place.folder,
            load=lambda: load_scorer(settings),
            max_error_share=settings.max_error_share,
            name=self.name,
            progress=place.progress,
        )
