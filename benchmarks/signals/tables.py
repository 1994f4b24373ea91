"""The study as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from benchmarks.signals.figures import Figures, Mean, Ranking, figures, mean, verdict
from benchmarks.signals.records import Prompt

__all__ = ["baselines", "model_table", "verdict_table"]


def baselines(prompts: Sequence[Prompt], *, seed: int) -> Iterator[str]:
    """Yield a table of one row: what there is to choose from."""
    rewards = [prompt.rewards for prompt in prompts]
    found = {
        "one sample": [r[1:].mean() for r in rewards],
        "greedy": [r[0] for r in rewards],
        "any": [r.max() for r in rewards],
        "right and wrong ones": [float(r.min() < r.max()) for r in rewards],
    }
    sizes = sorted({len(r) - 1 for r in rewards})
    drawn = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    cells = (_with_error(mean(np.array(v), seed=seed)) for v in found.values())
    yield f"| prompts | samples drawn of each | {' | '.join(found)} |"
    yield "|---|---|---|---|---|---|"
    yield f"| {len(prompts)} | {drawn} | {' | '.join(cells)} |"


def model_table(
    rankings: Sequence[Ranking], prompts: Sequence[Prompt], *, seed: int
) -> Iterator[str]:
    """Yield the lines of one model's table, a signal a row."""
    rows = [figures(ranking, prompts, seed=seed) for ranking in rankings]
    pairs = f"pairs in order (n = {rows[0].pairs.n})"
    yield f"| signal | engines | {pairs} | choice | minus greedy | minus one sample |"
    yield "|---|---|---|---|---|---|"
    yield from _lines(
        (ranking.name, _engines(ranking), *_cells(found))
        for ranking, found in zip(rankings, rows, strict=True)
    )


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
    yield from _lines(
        _verdict_cells(row, models.values(), seed=seed)
        for row in zip(*rankings.values(), strict=True)
    )


def _verdict_cells(
    row: Sequence[Ranking], models: Iterable[Sequence[Prompt]], *, seed: int
) -> tuple[str, ...]:
    found = [
        figures(ranking, prompts, seed=seed).against_greedy
        for ranking, prompts in zip(row, models, strict=True)
    ]
    compared = map(_with_interval, found)
    return (row[0].name, _engines(row[0]), row[0].fitted, *compared, verdict(found))


def _lines(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows of cells as lines; neighbours that differ in their names alone share one."""
    for cells, alike in groupby(rows, key=lambda row: row[1:]):
        yield f"| {'; '.join(row[0] for row in alike)} | {' | '.join(cells)} |"


def _engines(ranking: Ranking) -> str:
    return "every" if ranking.every_engine else "transformers"


def _with_error(found: Mean) -> str:
    return f"{found.estimate.value:.3f} ± {found.standard_error:.3f}"


def _with_interval(found: Mean) -> str:
    value = found.estimate
    return f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
