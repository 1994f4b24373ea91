"""Calibration: held-out samples of the fine-tuned model, maps by position, and a policy.

From raw log-odds to the share of fresh samples that are not better.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.quality import Prediction, predictions, running_at, whole
from selfeval_backend.evaluation.tuning import Goal, find_policy, policy_of
from selfeval_backend.files import writing
from selfeval_backend.hashing import Hasher
from selfeval_backend.samples.filling import Job, fill
from selfeval_backend.samples.recorder import Draw, RecordingPlan
from selfeval_backend.samples.records import PromptRecord, Recording, RecordingInfo
from selfeval_backend.samples.store import load_recording, read_listing, rewarded, save_recording
from selfeval_backend.selfeval import CalibrationMap, EvaluationReader, SelfEvalConfig
from selfeval_backend.training.base_model import load_asking, model_inputs
from selfeval_backend.training.finetune import load_weights, pad_id_of
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.prompts import PromptSplit, stored_prompts
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.rewards import load_scorer, reward_inputs, score_files
from selfeval_backend.training.rollouts import draw_of, job_of, plan_of
from selfeval_backend.training.scoring import score_prefixes

__all__ = ["CalibrateStage", "fit_calibration", "rewarded_prompts"]

_DRAWN = "drawn"
"""Folder of the samples, within the stage's, before the model is asked about them."""
_NUM_POINTS = 40
_MIN_PREDICTIONS = 200
"""Fewer do not carry a map of their own: the nearest position's serves."""


def fit_calibration(
    prompts: Sequence[PromptRecord],
    evaluator: EvaluationReader,
    positions: Sequence[int],
    *,
    method: str = "isotonic",
    tie_threshold: float = 0.0,
) -> tuple[CalibrationMap, ...]:
    """Fit one monotone map for finished responses and one for each position.

    Args:
        prompts: Held out, with samples that were asked about at the positions and the end.
        evaluator: Not calibrated yet.
        positions: In generated tokens; only samples that still run there count.
        method: "isotonic", or "platt": a logistic curve, for few predictions.
        tie_threshold: Rewards that differ by no more tie.

    Raises:
        DatasetError: No response is finished.
    """
    fit = _isotonic if method == "isotonic" else _platt
    items = predictions(prompts, evaluator, whole, tie_threshold=tie_threshold)
    if not items:
        raise DatasetError("there is no held-out response to calibrate on")
    maps = [fit(items, None)]
    for position in positions:
        items = predictions(prompts, evaluator, running_at(position), tie_threshold=tie_threshold)
        if len(items) >= _MIN_PREDICTIONS:
            maps.append(fit(items, position))
    return tuple(maps)


def _isotonic(items: Sequence[Prediction], num_tokens: int | None) -> CalibrationMap:
    """Isotonic regression over quantile bins, which keeps the file small and the ends unextreme."""
    logits = np.array([p.logit for p in items])
    targets = np.array([p.target for p in items])
    order = np.argsort(logits, kind="stable")
    bins = np.array_split(order, min(_NUM_POINTS, len(items)))
    xs = np.array([logits[b].mean() for b in bins])
    xs, first = np.unique(xs, return_index=True)
    ys = np.array([targets[bins[i]].mean() for i in first])
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(xs, ys)
    return _map(num_tokens, xs, fitted)


def _platt(items: Sequence[Prediction], num_tokens: int | None) -> CalibrationMap:
    """A logistic curve of the logit, as points; flat where a higher logit would mean less."""
    logits = np.array([p.logit for p in items])
    targets = np.array([p.target for p in items])
    both = np.concatenate([logits, logits])[:, None]
    labels = np.repeat([1, 0], len(items))
    weights = np.concatenate([targets, 1.0 - targets])
    mean = float(targets.mean())
    slope, shift = 0.0, 0.0
    if 0.0 < mean < 1.0:
        fitted = LogisticRegression(C=1e6).fit(both, labels, sample_weight=weights)
        slope, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0.0:
        return _map(num_tokens, np.array([0.0]), np.array([mean]))
    xs = np.linspace(logits.min(), logits.max() + 1e-6, _NUM_POINTS)
    return _map(num_tokens, xs, 1.0 / (1.0 + np.exp(-(slope * xs + shift))))


def _map(num_tokens: int | None, xs: np.ndarray, ys: np.ndarray) -> CalibrationMap:
    return CalibrationMap(
        num_tokens=num_tokens,
        raw_logit=tuple(float(x) for x in xs),
        prob_win_or_tie=tuple(round(float(y), 6) for y in ys),
    )


def rewarded_prompts(samples: Path, rewards: Path, split: PromptSplit) -> list[PromptRecord]:
    """Read the prompts of a split with two samples at least, all of which have rewards.

    Args:
        samples: Folder of the samples.
        rewards: Folder of their rewards.
        split: Which prompts.

    Raises:
        DatasetError: A file cannot be read.
    """
    return [
        prompt
        for prompt in rewarded(samples, rewards)
        if prompt.split == split and len(prompt.samples) >= 2 and not prompt.failed
    ]


def _held_out(recipe: Recipe, prompts: Path, model: Path) -> Job:
    """Return what the fine-tuned model draws, at temperature 1 and annealed.

    Samples at temperature 1 have the seeds that the base model's had.
    """
    plan = replace(plan_of(recipe, num_samples=recipe.calibrate.samples), annealed=True)
    draws = partial(_draws, recipe, prompts, plan)
    return job_of(recipe, model=model, name=recipe.name, plan=plan, draws=draws)


def _draws(recipe: Recipe, prompts: Path, plan: RecordingPlan) -> Iterator[Draw]:
    """Yield the prompts to calibrate on, and those that the report is of."""
    settings = recipe.calibrate
    left: dict[str | None, int] = {
        "calibration": settings.max_calibration_prompts,
        "test": settings.max_test_prompts,
    }
    for prompt in stored_prompts(prompts, ("calibration", "test")):
        if left[prompt.split]:
            left[prompt.split] -= 1
            yield draw_of(recipe, prompt, plan)


class CalibrateStage:
    """Draws held-out samples of the fine-tuned model, and writes its selfeval.json."""

    name = "calibrate"
    needs = ("prompts", "finetune")

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return how held-out prompts are drawn, rewarded and fitted."""
        drawn = recipe.rollouts.shaping | recipe.rollouts.model_dump(
            mode="json", include={"max_tokens", "shard_prompts", "engine"}
        )
        return {
            **model_inputs(recipe, hasher),
            **reward_inputs(recipe.rewards, hasher),
            "calibrate": recipe.calibrate.model_dump(mode="json"),
            "tie_threshold": recipe.preferences.tie_threshold,
            "rollouts": drawn,
            "seed": recipe.seed,
        }

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say how many samples would be drawn."""
        settings = recipe.calibrate
        if "prompts" not in upstream:
            return [f"{2 * settings.samples} samples a held-out prompt"]
        plan = plan_of(recipe, num_samples=settings.samples)
        num_prompts = sum(1 for _ in _draws(recipe, upstream["prompts"], plan))
        return [
            f"{num_prompts * 2 * settings.samples:,} samples of {num_prompts:,} held-out prompts, "
            f"each asked at {len(settings.positions)} positions and the end"
        ]

    def run(self, place: Workplace) -> dict[str, Any]:
        """Draw, reward, ask, fit; each part goes on where it was."""
        model = place.upstream["finetune"] / "model"
        held_out = _held_out(place.recipe, place.upstream["prompts"], model)
        figures = {"rollouts": self._draw(place, held_out), "rewards": self._reward(place)}
        trained = SelfEvalConfig.load(model)
        assert trained is not None, "fine-tuning wrote it"
        calibration = self._asked(place, held_out.info, "calibration", trained)
        config, tuned = self._config(place, calibration)
        test = self._asked(place, held_out.info, "test", config)
        folder = place.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            shutil.copytree(model, folder, copy_function=_link)
        (folder / "selfeval.json").unlink()  # a link: the fine-tuned folder keeps its own
        config.save(folder)
        counts = {"calibration": len(calibration.prompts), "test": len(test.prompts)}
        return {**figures, "prompts": counts, "tuning": tuned}

    def _draw(self, place: Workplace, held_out: Job) -> dict[str, Any]:
        folder = place.folder / _DRAWN
        return fill(held_out, folder, name="calibrate: rollouts", progress=place.progress)

    def _reward(self, place: Workplace) -> dict[str, Any]:
        settings = place.recipe.rewards
        return score_files(
            place.folder / _DRAWN,
            place.folder / _DRAWN,
            load=lambda: load_scorer(settings),
            max_error_share=settings.max_error_share,
            name="calibrate: rewards",
            progress=place.progress,
        )

    def _asked(
        self, place: Workplace, info: RecordingInfo, split: PromptSplit, config: SelfEvalConfig
    ) -> Recording:
        """Ask the model about the samples of a split, and keep them as a recording."""
        folder = place.folder / split
        if read_listing(folder) is None:
            facts = {
                "task": split,
                "checkpoints": place.recipe.calibrate.positions,
                "selfeval": config,
            }
            prompts = tuple(self._score(place, split))
            recording = Recording(info=info.model_copy(update=facts), prompts=prompts)
            save_recording(folder, recording)
        return load_recording(folder)

    def _score(self, place: Workplace, split: PromptSplit) -> list[PromptRecord]:
        drawn, model = place.folder / _DRAWN, place.upstream["finetune"] / "model"
        prompts = rewarded_prompts(drawn, drawn, split)
        if not prompts:
            raise DatasetError(
                f"there is no rewarded {split} prompt. Give more prompts, or a larger share of "
                f"them to {split}."
            )
        asking = load_asking(place.recipe)
        positions = place.recipe.calibrate.positions
        return score_prefixes(
            prompts,
            load_weights(model).eval(),
            cuts=lambda s: [
                *(n for n in positions if n < len(s.token_ids)),
                len(s.token_ids) // 2,
            ],
            question_ids=asking.evaluator.question_ids,
            label_ids=asking.evaluator.label_ids,
            pad_id=pad_id_of(model),
            batch_size=place.recipe.finetune.batch_size,
            progress=lambda done, total: place.progress(f"calibrate: {split}", done, total),
        )

    def _config(
        self, place: Workplace, recording: Recording
    ) -> tuple[SelfEvalConfig, dict[str, Any]]:
        recipe = place.recipe
        maps = fit_calibration(
            recording.prompts,
            recording.reader,
            recipe.calibrate.positions,
            method=recipe.calibrate.method,
            tie_threshold=recipe.preferences.tie_threshold,
        )
        config = recording.info.selfeval.model_copy(update={"calibration": maps})
        info = recording.info.model_copy(update={"selfeval": config})
        tuned = _tuned(place, replace(recording, info=info))
        provenance = {
            "recipe": recipe.name,
            "base_model": recipe.model,
            "seed": recipe.seed,
            "stages": {name: folder.name for name, folder in place.upstream.items()},
        }
        policy = {k: v for k, v in tuned.items() if k != "failed"}
        return config.model_copy(update={"policy": policy, "provenance": provenance}), tuned


def _tuned(place: Workplace, recording: Recording) -> dict[str, Any]:
    """Choose the policy that ships; where none keeps enough, say so and ship none."""
    settings = place.recipe.calibrate
    if not settings.tune:
        return {}
    try:
        found = find_policy(
            recording,
            Goal(kind="keep_quality", value=settings.keep_improvement),
            seed=place.recipe.seed,
            prune_at=settings.prune_at,
            annealing=settings.annealing,
        )
    except DatasetError as error:
        place.log(f"calibrate: no policy is tuned: {error}")
        return {"failed": str(error)}
    return {**policy_of(found.settings), "max_samples": settings.samples}


def _link(source: str, target: str) -> None:
    """Share a file's bytes where the file system can, else copy them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
