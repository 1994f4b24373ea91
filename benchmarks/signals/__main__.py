"""The study's command: ``python -m benchmarks.signals FILE [FILE ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.signals.figures import Ranking, rankings
from benchmarks.signals.records import Prompt, read
from benchmarks.signals.tables import baselines, model_table, verdict_table


def report(models: Mapping[str, Sequence[Prompt]], *, by: str | None, seed: int) -> Iterator[str]:
    """Yield the lines of the whole study.

    Args:
        models: All prompts by the model's name.
        by: "part" or "kind" for a table of each besides; None: one table a model.
        seed: Of the bootstrap.
    """
    ranked = rankings(models)
    for name, prompts in models.items():
        yield from _section(f"## {name}", ranked[name], prompts, seed=seed)
        groups = [getattr(prompt, by) if by else "" for prompt in prompts]
        for group in sorted(set(groups) if by else ()):
            among = [place for place, each in enumerate(groups) if each == group]
            yield from _section(
                f"### {name}, {group}",
                [_of(ranking, among) for ranking in ranked[name]],
                [prompts[place] for place in among],
                seed=seed,
            )
    yield from ("## Verdicts", "")
    yield from verdict_table(models, ranked, seed=seed)


def _section(
    heading: str, ranked: Sequence[Ranking], prompts: Sequence[Prompt], *, seed: int
) -> Iterator[str]:
    yield from (heading, "", *baselines(prompts, seed=seed), "")
    yield from model_table(ranked, prompts, seed=seed)
    yield ""


def _of(ranking: Ranking, among: Sequence[int]) -> Ranking:
    return replace(ranking, values=tuple(ranking.values[place] for place in among))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the study of the given files; None: what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signals")
    parser.add_argument("files", nargs="+", type=Path, help="one a model, of benchmarks.samples")
    parser.add_argument("--by", choices=("part", "kind"), help="a table of each besides")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    chosen = parser.parse_args(arguments)
    if len({path.stem for path in chosen.files}) < len(chosen.files):
        parser.error("FILE: two of one name: a file's name is that of its model")
    models = {path.stem: read(path) for path in chosen.files}
    print("\n".join(report(models, by=chosen.by, seed=chosen.seed)))


if __name__ == "__main__":
    main()
