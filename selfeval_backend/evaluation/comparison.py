"""From a recording to a comparison of methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.catalogue import catalogue, choose
from selfeval_backend.evaluation.methods import ONE_SAMPLE, best_of_n_name
from selfeval_backend.evaluation.table import Difference, MethodSummary, ResultTable, replay_table
from selfeval_backend.evaluation.tasks.length_control import length_controlled_estimate
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples.recorder import Progress
from selfeval_backend.samples.records import Recording, RecordingInfo

__all__ = ["Comparison", "default_checkpoints", "evaluate_recording"]

_POWERS = (8, 16, 32, 64, 128, 256)

OURS = "adaptive"
"""What rivals are compared with, one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All methods on one recording."""

    info: RecordingInfo
    num_prompts: int
    num_samples: int
    """Of all prompts together."""
    num_errors: int
    """Samples without a reward: the worst one counts in its place."""
    worst_reward: float
    seed: int
    """Of the resamples."""
    summaries: tuple[MethodSummary, ...]
    differences: tuple[Difference, ...]
    """`OURS` minus each other method; paired."""
    left_out: Mapping[str, str]
    """Methods, and what the recording lacks for them."""
    length_controlled: Mapping[str, Estimate]
    """The length-controlled win rate of each method, where responses are judged against others."""


def default_checkpoints(model: SelfEvaluatingModel, *, max_tokens: int | None) -> tuple[int, ...]:
    """Return the model's own checkpoints and powers of two from 8 to 256, as far as they fit."""
    capabilities = model.engine.capabilities
    if not capabilities.evaluates_mid_generation:
        return ()
    longest = max_tokens or capabilities.context_length // 2
    places = {*_POWERS, *model.settings().prune_at}
    return tuple(sorted(at for at in places if at < longest))


def evaluate_recording(
    recording: Recording, *, methods: str, seed: int, progress: Progress | None = None
) -> Comparison:
    """Replay methods on a recording.

    Args:
        recording: At least one prompt.
        methods: "all", or names with commas between them.
        seed: Of the resamples.
        progress: Told of replayed prompts.

    Raises:
        ConfigurationError: A name is unknown, or the recording lacks what its method needs.
        DatasetError: The recording is empty, or a replay asks for what was not recorded.
    """
    found = catalogue(recording)
    for name in (part.strip() for part in methods.split(",")):
        if name in found.left_out:
            raise ConfigurationError(
                "methods",
                name,
                f"methods that this recording has all for; it has no {found.left_out[name]}",
            )
    best_of_n = best_of_n_name(recording.info.num_samples)
    chosen = choose(found.methods, methods, always=(ONE_SAMPLE, best_of_n))
    table = replay_table(
        recording,
        chosen,
        progress=None if progress is None else lambda done, of: progress("replaying", done, of),
    )
    names = [method.name for method in chosen]
    return Comparison(
        info=recording.info,
        num_prompts=len(recording.prompts),
        num_samples=recording.num_samples,
        num_errors=recording.num_errors,
        worst_reward=recording.worst_reward,
        seed=seed,
        summaries=table.summaries(one_sample=ONE_SAMPLE, best_of_n=best_of_n, seed=seed),
        differences=tuple(
            table.difference(OURS, name, seed=seed)
            for name in names
            if OURS in names and name != OURS
        ),
        left_out=found.left_out,
        length_controlled=_length_controlled(recording, table, seed),
    )


def _length_controlled(
    recording: Recording, table: ResultTable, seed: int
) -> Mapping[str, Estimate]:
    lengths = [prompt.reference_characters for prompt in recording.prompts]
    references = [length for length in lengths if length is not None]
    if len(references) < max(2, len(lengths)):
        return {}
    return {
        method.name: length_controlled_estimate(
            table.reward[:, place],
            table.response_characters[:, place],
            np.array(references, dtype=np.float64),
            seed=seed,
        )
        for place, method in enumerate(table.methods)
    }
