"""The study as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.signals.figures import Figures, Mean, Ranking, figures, mean, verdict
from benchmarks.signals.records import Prompt

__all__ = ["baselines", "model_table", "verdict_table"]


def baselines(prompts: Sequence[Prompt], *, seed: int) -> str:
    """Return one line: what there is to choose from."""
    rewards = [prompt.rewards for prompt in prompts]
    found = {
        "one sample": [r[1:].mean() for r in rewards],
        "greedy": [r[0] for r in rewards],
        "any": [r.max() for r in rewards],
        "prompts with right and wrong ones": [float(r.min() < r.max()) for r in rewards],
    }
    said = (f"{name} {_with_error(mean(np.array(v), seed=seed))}" for name, v in found.items())
    sizes = sorted({len(r) - 1 for r in rewards})
    drawn = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{len(prompts)} prompts, {drawn} samples each and the greedy one: {', '.join(said)}."


def model_table(
    rankings: Sequence[Ranking], prompts: Sequence[Prompt], *, seed: int
) -> Iterator[str]:
    """Yield the lines of one model's table, a signal a row."""
    rows = [figures(ranking, prompts, seed=seed) for ranking in rankings]
    pairs = f"pairs in order (n = {rows[0].pairs.n})"
    yield f"| signal | engines | {pairs} | choice | minus greedy | minus one sample |"
    yield "|---|---|---|---|---|---|"
    for ranking, found in zip(rankings, rows, strict=True):
        yield f"| {ranking.name} | {_engines(ranking)} | {' | '.join(_cells(found))} |"


def _cells(found: Figures) -> tuple[str, ...]:
    return (
        _with_error(found.pairs),
        _with_error(found.accuracy),
        _with_interval(found.against_greedy),
        _with_interval(found.against_one),
    )


def verdict_table(
    models: Mapping[str, Sequence[Prompt]],
    rankings: Mapping[str, Sequence[Ranking]],
    *,
    seed: int,
) -> Iterator[str]:
    """Yield the lines of the table of verdicts, a signal a row."""
    names = [f"{name} (n = {len(prompts)})" for name, prompts in models.items()]
    yield f"| signal | engines | fitted on | {' | '.join(names)} | verdict |"
    yield f"|---|---|---|{'---|' * len(models)}---|"
    for row in zip(*rankings.values(), strict=True):
        found = [
            figures(ranking, prompts, seed=seed).against_greedy
            for ranking, prompts in zip(row, models.values(), strict=True)
        ]
        compared = map(_with_interval, found)
        cells = (row[0].name, _engines(row[0]), row[0].fitted, *compared, verdict(found))
        yield f"| {' | '.join(cells)} |"


def _engines(ranking: Ranking) -> str:
    return "every" if ranking.every_engine else "transformers"


def _with_error(found: Mean) -> str:
    return f"{found.estimate.value:.3f} ± {found.standard_error:.3f}"


def _with_interval(found: Mean) -> str:
    value = found.estimate
    return f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
