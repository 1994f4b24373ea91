"""Many methods on one recording: results as arrays, and paired intervals from the bootstrap.

Axes: P prompts, M methods, R resamples.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.bootstrap import Estimate, interval, resamples
from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.replaying import replay_methods
from selfeval_backend.samples.records import Recording

__all__ = ["Difference", "MethodSummary", "ResultTable", "replay_table"]

Array = NDArray[np.float64]

_RUNS_OF_A_PROCESS = 200_000
"""Replays that make up for starting a process and sending it the recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSummary:
    """What a method is worth and what it costs, a prompt; see `metrics` for the units."""

    method: str
    family: str
    quality: Estimate
    """Mean reward."""
    standard_error: float
    """Of `quality`, over prompts."""
    mean_samples: float
    generated_tokens: float
    self_evaluation_tokens: float
    improvement_kept: Estimate | None
    """Paired with one sample and Best-of-N; None where these prompts do not show that Best-of-N
    improves anything: a share of what may be nothing says nothing."""
    tokens_saved: Estimate
    """Paired with Best-of-N."""

    @property
    def tokens(self) -> float:
        """Generated and self-evaluation tokens."""
        return self.generated_tokens + self.self_evaluation_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of the quality of two methods on the same prompts."""

    better: str
    worse: str
    quality: Estimate
    """Mean of the first minus that of the second."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ResultTable:
    """Results of methods on the same prompts."""

    methods: tuple[Method, ...]
    reward: Array
    """[P, M], of what was given back."""
    num_samples: Array
    """[P, M]."""
    generated_tokens: Array
    """[P, M]."""
    self_evaluation_tokens: Array
    """[P, M]."""
    response_characters: Array
    """[P, M], of what was given back; not a number where it is not known."""

    @property
    def tokens(self) -> Array:
        """[P, M]: generated and self-evaluation tokens."""
        return self.generated_tokens + self.self_evaluation_tokens

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {method.name: place for place, method in enumerate(self.methods)}

    def column(self, method: str) -> int:
        """Return the place of a method.

        Raises:
            ConfigurationError: There is none of that name.
        """
        if method not in self._columns:
            raise ConfigurationError("method", method, f"one of {', '.join(self._columns)}")
        return self._columns[method]

    def rows(self, prompts: Sequence[int]) -> ResultTable:
        """Return the table of these prompts alone."""
        chosen = np.asarray(prompts, dtype=np.int64)
        return ResultTable(
            methods=self.methods,
            reward=self.reward[chosen],
            num_samples=self.num_samples[chosen],
            generated_tokens=self.generated_tokens[chosen],
            self_evaluation_tokens=self.self_evaluation_tokens[chosen],
            response_characters=self.response_characters[chosen],
        )

    def summaries(
        self, *, one_sample: str, best_of_n: str, seed: int, num_resamples: int = 1000
    ) -> tuple[MethodSummary, ...]:
        """Summarise every method, in order, with 95 % intervals over prompts.

        Args:
            one_sample: The method that improvement is counted from.
            best_of_n: The method that improvement and tokens are counted against.
            seed: Of the resamples; all methods share them.
            num_resamples: R.
        """
        shares = self._shares(seed, num_resamples)
        quality, cost = shares @ self.reward, shares @ self.tokens  # [R, M]
        low, high = self.column(one_sample), self.column(best_of_n)
        return tuple(
            self._summary(place, method, quality, cost, low, high)
            for place, method in enumerate(self.methods)
        )

    def _summary(
        self, place: int, method: Method, quality: Array, cost: Array, low: int, high: int
    ) -> MethodSummary:
        mean, tokens = self.reward.mean(0), self.tokens.mean(0)
        kept = None
        if np.quantile(quality[:, high] - quality[:, low], 0.025) > 1e-12:
            with np.errstate(divide="ignore", invalid="ignore"):
                resampled = (quality[:, place] - quality[:, low]) / (
                    quality[:, high] - quality[:, low]
                )
            kept = interval((mean[place] - mean[low]) / (mean[high] - mean[low]), resampled)
        num_prompts = len(self.reward)
        return MethodSummary(
            method=method.name,
            family=method.family or method.name,
            quality=interval(mean[place], quality[:, place]),
            standard_error=(
                float(self.reward[:, place].std(ddof=1) / np.sqrt(num_prompts))
                if num_prompts > 1
                else float("nan")
            ),
            mean_samples=float(self.num_samples[:, place].mean()),
            generated_tokens=float(self.generated_tokens[:, place].mean()),
            self_evaluation_tokens=float(self.self_evaluation_tokens[:, place].mean()),
            improvement_kept=kept,
            tokens_saved=interval(
                1.0 - tokens[place] / tokens[high], 1.0 - cost[:, place] / cost[:, high]
            ),
        )

    def difference(
        self, better: str, worse: str, *, seed: int, num_resamples: int = 1000
    ) -> Difference:
        """Return the paired difference of two methods' quality, with its 95 % interval."""
        gap = self.reward[:, self.column(better)] - self.reward[:, self.column(worse)]
        resampled = self._shares(seed, num_resamples) @ gap
        return Difference(
            better=better, worse=worse, quality=interval(float(gap.mean()), resampled)
        )

    def improvement_kept(
        self, *, one_sample: int, best_of_n: int, seed: int, num_resamples: int = 400
    ) -> tuple[Array, Array]:
        """Return the improvement kept by every method and its bootstrap standard error, [M] each.

        Args:
            one_sample: Column that improvement is counted from.
            best_of_n: Column that it is counted against; better in the mean.
            seed: Of the resamples.
            num_resamples: R.
        """
        quality = np.vstack([self.reward.mean(0), self._shares(seed, num_resamples) @ self.reward])
        floor, ceiling = quality[:, [one_sample]], quality[:, [best_of_n]]
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = (quality - floor) / (ceiling - floor)
        return kept[0], np.nanstd(kept[1:], axis=0, ddof=1)

    def mean_of(self, values: Array, *, seed: int, num_resamples: int = 1000) -> Estimate:
        """Return the mean over prompts of values [P], with its 95 % interval."""
        resampled = self._shares(seed, num_resamples) @ values
        return interval(float(values.mean()), resampled)

    def _shares(self, seed: int, num_resamples: int) -> Array:
        """Return the shares of the prompts in each resample, [R, P]."""
        num_prompts = len(self.reward)
        drawn = resamples(num_prompts, seed=seed, num_resamples=num_resamples)
        return drawn / num_prompts


def replay_table(
    recording: Recording,
    methods: Sequence[Method],
    *,
    num_processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ResultTable:
    """Answer every recorded prompt by every method.

    Args:
        recording: At least one prompt.
        methods: With names of their own.
        num_processes: None: one a core, where there is enough to do.
        progress: Told of how many prompts are done, and of how many.

    Raises:
        DatasetError: The recording is empty, or lacks what a method needs.
        ConfigurationError: Two methods have one name.
    """
    if not recording.prompts:
        raise DatasetError("no prompts to evaluate on: the recording, or this part of it, is empty")
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError("methods", twice, "names that come once")
    num_prompts = len(recording.prompts)
    num_processes = num_processes or os.cpu_count() or 1
    num_processes = min(num_processes, 1 + num_prompts * len(methods) // _RUNS_OF_A_PROCESS)
    size = max(1, -(-num_prompts // (num_processes * 8)))
    parts = [range(start, min(start + size, num_prompts)) for start in range(0, num_prompts, size)]
    blocks = []
    for block in _blocks(recording, methods, parts, num_processes):
        blocks.append(block)
        if progress is not None:
            progress(sum(map(len, blocks)), num_prompts)
    values = np.concatenate(blocks)  # [P, M, 5]
    return ResultTable(
        methods=tuple(methods),
        reward=values[..., 0],
        num_samples=values[..., 1],
        generated_tokens=values[..., 2],
        self_evaluation_tokens=values[..., 3],
        response_characters=values[..., 4],
    )


def _blocks(
    recording: Recording, methods: Sequence[Method], parts: Sequence[range], num_processes: int
) -> Iterator[Array]:
    jobs = [recording.part(part) for part in parts]
    if num_processes == 1:
        yield from map(_block, jobs, [methods] * len(jobs))
        return
    # Not forked: the process may have threads, of an engine or of a progress bar.
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_block, jobs, [methods] * len(jobs))


def _block(recording: Recording, methods: Sequence[Method]) -> Array:
    """Return [P, M, 5], in the order of `ResultTable`'s fields."""
    values = np.empty((len(recording.prompts), len(methods), 5))
    with _uncollected():
        for place, results in enumerate(replay_methods(recording, methods)):
            values[place] = [
                (
                    r.reward,
                    r.num_samples,
                    r.generated_tokens,
                    r.self_evaluation_tokens,
                    np.nan if r.response_characters is None else r.response_characters,
                )
                for r in results
            ]
    return values


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection, as a replay makes many objects and no cycles. A tenth faster."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
