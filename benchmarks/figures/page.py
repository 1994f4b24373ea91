"""``docs/results.md``: every table and plot, from recordings and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.figures.paper_claims import paper_claims_section
from benchmarks.figures.runs import load_beams, load_capability
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.catalogue import THRESHOLDS, catalogue, sweep
from selfeval_backend.evaluation.markdown import markdown_table, percent, plain, share, signed
from selfeval_backend.evaluation.methods import ONE_SAMPLE, Method, best_of_n_name
from selfeval_backend.evaluation.plots import Curve, draw_curves, draw_reliability
from selfeval_backend.evaluation.quality import (
    Cut,
    Prediction,
    expected_calibration_error,
    pair_accuracy,
    predictions,
    running_at,
    whole,
)
from selfeval_backend.evaluation.table import MethodSummary, ResultTable, replay_table
from selfeval_backend.evaluation.tasks.shifted import SHIFTED_KINDS
from selfeval_backend.files import write_atomically
from selfeval_backend.samples.records import Recording
from selfeval_backend.samples.store import load_recording

__all__ = ["merged", "write_results"]

BUDGETS = (100, 200, 300, 400, 800, 1600)
"""Tokens a prompt."""
_KEEP = (0.75, 0.5, 0.375, 0.25)
_OURS = ("adaptive", "adaptive+pruning")
_HEAD = """\
# All tables

What they mean is told in [what was found](findings.md). They are of the reference model, which has
1.5 million parameters, on its number puzzles. They say nothing of larger models, nor of its other
skills.

`python -m benchmarks.figures` makes this page. It draws samples once and keeps them. Every method
is then replayed on the same samples, by the code that answers users.

| word | meaning |
|---|---|
| n | {n} held-out problems, seed {seed}; 16 samples at temperature 1 and 16 annealed ones each |
| quality | mean reward: the share of problems solved |
| ± | one standard error |
| brackets | 95 % intervals by bootstrap over prompts (1,000 resamples, seed {seed}), paired where \
methods are compared |
| tokens | generated and self-evaluation tokens of a prompt |
| kept | share of the improvement from one sample to Best-of-16 by self-evaluation |
| saved | tokens saved against the same Best-of-16 |
"""


def write_results(runs: Path, out: Path, *, seed: int) -> list[Path]:
    """Write results.md and its plots.

    Args:
        runs: What `runs.make_missing` made.
        out: Gets ``results.md`` and ``results/``.
        seed: Of the resamples and halves.

    Returns:
        What was written.

    Raises:
        DatasetError: A recording is missing, or lacks something.
    """
    reference = load_recording(runs / "reference")
    page = _Page(reference, out / "results", seed)
    parts = [
        _HEAD.format(n=len(reference.prompts), seed=seed),
        paper_claims_section(reference, seed=seed),
        page.all_methods(),
        page.budgets(),
        page.thresholds(),
        page.pruning(),
        page.positions(),
    ]
    if (runs / "capability").is_dir():
        parts.append(page.capability(load_capability(runs / "capability")))
    if (runs / "shifted").is_dir():
        parts.append(page.shifted(load_recording(runs / "shifted")))
    if (runs / "beam.json").is_file():
        parts.append(page.beams(runs / "beam.json"))
    parts.append(_NOT_MEASURED)
    path = out / "results.md"
    write_atomically(path, "\n".join(parts))
    return [path, *sorted((out / "results").iterdir())]


_NOT_MEASURED = """\
## Not measured

- How good rewards must be: only at a small budget, see [experiments](experiments.md).
- GSM8K and AlpacaEval on the paper's model, which need its weights and a GPU. The commands stand in
  [measure and tune](tune.md#the-prompts).
"""


def _row(summary: MethodSummary) -> tuple[str, ...]:
    return (
        summary.method,
        f"{summary.quality.value:.3f} ± {summary.standard_error:.3f}",
        f"{summary.mean_samples:.2f}",
        f"{summary.generated_tokens:,.0f}",
        f"{summary.self_evaluation_tokens:,.0f}",
        percent(summary.improvement_kept),
        percent(summary.tokens_saved),
    )


_CAPABILITY_HEAD = (
    "parameters",
    "one sample",
    "best-of-16",
    "oracle",
    "gap closed",
    "pairs, whole",
    "at 48",
    "ECE",
    "threshold",
    "adaptive",
    "samples",
    "kept",
    "saved",
)
_METHOD_HEAD = ("method", "quality", "samples", "generated", "self-eval.", "kept", "saved")


@dataclass(frozen=True, slots=True)
class _Page:
    recording: Recording
    plots: Path
    seed: int

    @property
    def _best_of_n(self) -> str:
        return best_of_n_name(self.recording.info.num_samples)

    def _bounds(self) -> tuple[Method, ...]:
        own = {method.name: method for method in catalogue(self.recording).methods}
        return own[ONE_SAMPLE], own[self._best_of_n]

    def _replayed(
        self, methods: Sequence[Method], recording: Recording | None = None
    ) -> tuple[ResultTable, dict[str, MethodSummary]]:
        """Replay methods, with the bounds before them where they are not among them."""
        names = {method.name for method in methods}
        bounds = [method for method in self._bounds() if method.name not in names]
        table = replay_table(recording or self.recording, [*bounds, *methods])
        summaries = table.summaries(
            one_sample=ONE_SAMPLE, best_of_n=self._best_of_n, seed=self.seed
        )
        return table, {summary.method: summary for summary in summaries}

    def all_methods(self) -> str:
        found = catalogue(self.recording)
        table, summaries = self._replayed(found.methods)
        rows = [
            (
                *_row(s),
                ""
                if name == "adaptive"
                else signed(table.difference("adaptive", name, seed=self.seed).quality),
            )
            for name, s in summaries.items()
        ]
        return (
            "## All methods\n\n"
            "Other methods have the settings of their papers, scaled where their docstrings say "
            'so. "adaptive", "pruning" and "adaptive+pruning" are as the model ships. The last '
            "column is the quality of adaptive less that of the row.\n\n"
            + markdown_table((*_METHOD_HEAD, "adaptive ahead by"), rows)
            + "\nTwo kinds of rows say more of this task and model than of methods elsewhere. "
            "A puzzle has many right answers, so votes scatter. And the question that was never "
            'trained is answered by a model whose "Yes" was trained to mean the opposite.\n'
        )

    def budgets(self) -> str:
        """Every family's best setting under each budget: chosen on one half, shown on the other."""
        table, summaries = self._replayed(sweep(self.recording))
        self._draw_front(summaries)
        order = np.random.default_rng(self.seed).permutation(len(table.reward))
        first, second = np.array_split(order, 2)
        choose, show = table.rows(first.tolist()), table.rows(second.tolist())
        families = list(dict.fromkeys(m.family for m in table.methods if m.family))
        cells: dict[str, list[str]] = {family: [] for family in families}
        for budget in BUDGETS:
            best = {family: _best_within(choose, family, budget) for family in families}
            own = [name for name in (best[family] for family in _OURS if family in best) if name]
            ours = max(own, key=lambda name: _quality(choose, name), default=None)
            for family, name in best.items():
                cells[family].append(self._budget_cell(show, name, ours))
        return (
            "## At every token budget\n\n"
            "Columns are budgets, in tokens a prompt. On one half of the problems the best setting "
            "of each family within the budget was chosen; it is shown on the other half. A cell "
            "has its quality, then the quality of ours less its own, paired. Where that interval "
            f"lies below 0, the rival wins. Ours is the better of {' and '.join(_OURS)} on the "
            "first half, in bold.\n\n"
            + markdown_table(
                ("family", *(f"{budget:,}" for budget in BUDGETS)),
                ((family, *row) for family, row in cells.items()),
            )
            + "\n![Quality against tokens](results/front.svg)\n"
        )

    def _budget_cell(self, show: ResultTable, name: str | None, ours: str | None) -> str:
        if name is None:
            return "-"
        quality = f"{_quality(show, name):.3f}"
        if ours is None:
            return quality
        if name == ours:
            return f"**{quality}**"
        return f"{quality}; {signed(show.difference(ours, name, seed=self.seed).quality)}"

    def _draw_front(self, summaries: Mapping[str, MethodSummary]) -> None:
        families: dict[str, list[MethodSummary]] = {}
        for summary in summaries.values():
            if summary.family != summary.method:
                families.setdefault(summary.family, []).append(summary)
        curves = []
        for family, points in families.items():
            points.sort(key=lambda s: s.tokens)
            curves.append(
                Curve(
                    name=family,
                    x=tuple(s.tokens for s in points),
                    y=tuple(s.quality.value for s in points),
                    emphasised=family in _OURS,
                )
            )
        draw_curves(
            self.plots / "front",
            curves,
            title=f"Quality against tokens, n = {len(self.recording.prompts)}",
            x="tokens a prompt, self-evaluations included",
            y="quality",
            log_x=True,
        )

    def thresholds(self) -> str:
        """Improvement kept against threshold and mean samples; annealed against constant."""
        base = replace(self._own("adaptive").settings)
        kinds = {
            "annealed": base,
            "constant temperature": replace(base, annealing="constant"),
        }
        methods = [
            Method(
                name=f"{kind}, {threshold}",
                family=kind,
                settings=replace(settings, threshold=threshold),
            )
            for kind, settings in kinds.items()
            for threshold in THRESHOLDS
        ]
        table, summaries = self._replayed(methods)
        rows = []
        for threshold in THRESHOLDS:
            annealed, constant = (summaries[f"{kind}, {threshold}"] for kind in kinds)
            gap = table.difference(annealed.method, constant.method, seed=self.seed)
            rows.append(
                (
                    str(threshold),
                    *(text for s in (annealed, constant) for text in _kept_row(s)),
                    signed(gap.quality),
                )
            )
        self._draw_kept(summaries, kinds)
        head = (
            "threshold",
            "samples",
            "kept",
            "saved",
            "constant: samples",
            "kept",
            "saved",
            "annealed ahead by",
        )
        return (
            "## Adaptive sampling: threshold, mean samples, annealing\n\n"
            "The paper keeps 74 % of the improvement at 1.2 samples. Thresholds that came to the "
            "same share a row.\n\n"
            + markdown_table(head, merged(rows))
            + "\n![Improvement kept against mean samples](results/kept.svg)\n"
        )

    def _draw_kept(self, summaries: Mapping[str, MethodSummary], kinds: Iterable[str]) -> None:
        curves = []
        for kind in kinds:
            points = sorted(
                (s for s in summaries.values() if s.family == kind), key=lambda s: s.mean_samples
            )
            kept = [s.improvement_kept or Estimate(value=0, low=0, high=0) for s in points]
            curves.append(Curve(name=kind, x=tuple(s.mean_samples for s in points), y=tuple(kept)))
        draw_curves(
            self.plots / "kept",
            curves,
            title="Improvement kept against mean samples (bands: 95 %)",
            x="samples a prompt, in the mean",
            y="share of the improvement of Best-of-16",
            log_x=True,
            lines={"the paper's 74 %": 0.74},
        )

    def _own(self, name: str) -> Method:
        return next(m for m in catalogue(self.recording).methods if m.name == name)

    def pruning(self) -> str:
        """All samples at once, pruned: each checkpoint with each keep fraction."""
        places = self.recording.info.checkpoints
        full = self._bounds()[1].settings
        methods = [
            Method(
                name=f"{at}, {keep}",
                settings=replace(full, prune_at=(at,), keep_fraction=keep),
            )
            for at in places
            for keep in _KEEP
        ]
        _, summaries = self._replayed(methods)
        rows = [
            (
                str(at),
                *(
                    f"{percent(summaries[f'{at}, {keep}'].improvement_kept)}; "
                    f"{share(summaries[f'{at}, {keep}'].tokens_saved)}"
                    for keep in _KEEP
                ),
            )
            for at in places
        ]
        curves = [
            Curve(
                name=f"pruned at {at}",
                x=_KEEP,
                y=tuple(summaries[f"{at}, {keep}"].tokens_saved.value for keep in _KEEP),
            )
            for at in places
        ]
        draw_curves(
            self.plots / "pruning",
            curves,
            title="Tokens saved by pruning alone",
            x="share of the samples that goes on",
            y="tokens saved",
            lines={"the paper's 56 %": 0.56},
        )
        return (
            "## Pruning: checkpoint and keep fraction\n\n"
            "All 16 samples are drawn at once. A cell has the improvement kept, with its interval, "
            "then the tokens saved. The paper saves 56 % with little loss.\n\n"
            + markdown_table(("at tokens", *(f"keep {keep:.1%}" for keep in _KEEP)), rows)
            + "\n![Tokens saved](results/pruning.svg)\n"
        )

    def positions(self) -> str:
        """What the self-evaluation is worth at each number of tokens."""
        prompts, reader = self.recording.on_policy, self.recording.reader
        cuts: dict[str, Cut] = {
            **{str(at): running_at(at) for at in self.recording.info.checkpoints},
            "the end": whole,
        }
        found: dict[str, list[Prediction]] = {
            name: predictions(prompts, reader, cut) for name, cut in cuts.items()
        }
        accuracy = {
            name: pair_accuracy.estimate(items, seed=self.seed) for name, items in found.items()
        }
        rows = [
            (
                name,
                plain(accuracy[name]),
                f"{expected_calibration_error(items):.3f}",
                f"{len(items):,}",
            )
            for name, items in found.items()
        ]
        places = [name for name in cuts if not np.isnan(accuracy[name].value)]
        places.remove("the end")
        draw_curves(
            self.plots / "positions",
            [
                Curve(
                    name="pair accuracy (band: 95 %)",
                    x=tuple(float(name) for name in places),
                    y=tuple(accuracy[name] for name in places),
                )
            ],
            title="How well the self-evaluation orders samples of one problem",
            x="generated tokens",
            y="pairs ordered right",
            log_x=True,
            lines={"chance": 0.5, "at the end": accuracy["the end"].value},
        )
        shown: dict[str, list[Prediction]] = {
            name: found[name] for name in ("16", "48", "96", "the end") if name in found
        }
        draw_reliability(self.plots / "reliability", shown, title="Reliability, by tokens seen")
        return (
            "## When to evaluate\n\n"
            "Of two samples of one problem one is right: how often does it have the higher "
            "prob_win_or_tie? Chance is 0.5. ECE is the calibration error, in 15 bins. Each row is "
            "of the samples that run on past that number of tokens.\n\n"
            + markdown_table(("tokens", "pairs ordered right", "ECE", "samples"), rows)
            + "\n![Pair accuracy by position](results/positions.svg)\n"
            "![Reliability](results/reliability.svg)\n"
        )

    def shifted(self, recording: Recording) -> str:
        """The same methods on problems of another distribution, kind by kind."""
        names = (
            ONE_SAMPLE,
            "greedy",
            self._best_of_n,
            "adaptive",
            "adaptive+pruning",
            "oracle",
            "majority vote",
            "mean log-probability",
        )
        rows = []
        for kind in SHIFTED_KINDS:
            places = [
                i for i, p in enumerate(recording.prompts) if p.prompt_id.startswith(f"{kind}-")
            ]
            part = recording.part(places)
            methods = [m for m in catalogue(part).methods if m.name in names]
            _, summaries = self._replayed(methods, part)
            items = predictions(part.on_policy, part.reader, whole)
            quality = (
                plain(pair_accuracy.estimate(items, seed=self.seed)),
                f"{expected_calibration_error(items):.3f}",
            )
            for name in names:
                if name in summaries:
                    first = (
                        (f"{kind} (n = {len(places)})", *quality)
                        if name == ONE_SAMPLE
                        else ("", "", "")
                    )
                    rows.append((*first, *_row(summaries[name])))
        return (
            "## Another distribution\n\n"
            f"{len(recording.prompts)} problems, seed {recording.info.seed}. *Wording* is two "
            "wordings in one prompt. *Numbers* has a number from 26 to 30, where training went to "
            "25. *Longer* chains puzzles as no demonstration did. Pairs and ECE are of whole "
            "responses, settings those that the model ships with. Improvement kept is shown only "
            "where these prompts show that Best-of-16 improves anything.\n\n"
            + markdown_table(("shift", "pairs", "ECE", *_METHOD_HEAD), rows)
        )

    def capability(self, others: Mapping[int, Recording]) -> str:
        """The same figures for generators of other capability, each with its own settings."""
        num_prompts = min(len(other.prompts) for other in others.values())
        models = {
            **{f"{size / 1e6:.2f} M": other for size, other in sorted(others.items())},
            "the model that ships": self.recording,
        }
        rows = []
        for name, recording in models.items():
            part = recording.part(range(num_prompts))
            rows.append((name, *self._capability_row(part)))
        return (
            "## Capability of the generator\n\n"
            f"The first {num_prompts} problems, with generators of other sizes beside the one that "
            "ships. Each has a self-evaluation of its own, trained by the same pipeline on its own "
            "samples, and the settings that its own tuning chose: adaptive stops at the threshold "
            "shown. *Gap closed* is the share of the way from one sample to the oracle that "
            "Best-of-16 goes. Pairs: as above, of whole responses and of those that run past 48 "
            "tokens. How they were trained: [experiments](experiments.md).\n\n"
            + markdown_table(_CAPABILITY_HEAD, rows)
        )

    def _capability_row(self, part: Recording) -> tuple[str, ...]:
        own = {method.name: method for method in catalogue(part).methods}
        names = (ONE_SAMPLE, self._best_of_n, "adaptive", "oracle")
        _, summaries = self._replayed([own[name] for name in names], part)
        one, best, adaptive, oracle = (summaries[name] for name in names)
        gap = oracle.quality.value - one.quality.value
        closed = (best.quality.value - one.quality.value) / gap if gap > 0 else None
        prompts, reader = part.on_policy, part.reader
        finished = predictions(prompts, reader, whole)
        accuracy = [
            plain(pair_accuracy.estimate(items, seed=self.seed)) if items else "-"
            for items in (finished, predictions(prompts, reader, running_at(48)))
        ]
        return (
            *(f"{s.quality.value:.3f} ± {s.standard_error:.3f}" for s in (one, best, oracle)),
            "-" if closed is None else f"{closed:.0%}",
            *accuracy,
            f"{expected_calibration_error(finished):.3f}",
            f"{own['adaptive'].settings.threshold}",
            f"{adaptive.quality.value:.3f} ± {adaptive.standard_error:.3f}",
            f"{adaptive.mean_samples:.2f}",
            percent(adaptive.improvement_kept),
            percent(adaptive.tokens_saved),
        )

    def beams(self, path: Path) -> str:
        """Search steered by self-evaluation, against samples at equal tokens."""
        runs = load_beams(path)
        num_prompts = len(runs[0].results)
        part = self.recording.part(range(num_prompts))
        methods = [m for m in sweep(self.recording) if m.family in (*_OURS, _BEST_OF_N)]
        table, summaries = self._replayed(methods, part)
        rows = []
        for run in runs:
            reward = np.array([r.reward for r in run.results])
            tokens = float(
                np.mean([r.generated_tokens + r.self_evaluation_tokens for r in run.results])
            )
            beam = run.settings
            name = f"beam of {beam.width}, {beam.branch} continuations of {beam.step} tokens"
            rows.append((name, f"{reward.mean():.3f} ± {_error(reward):.3f}", f"{tokens:,.0f}", ""))
            for family in (_BEST_OF_N, *_OURS):
                if (rival := _nearest(summaries, family, tokens)) is not None:
                    gap = table.reward[:, table.column(rival.method)] - reward
                    rows.append(
                        (
                            f"- {rival.method}",
                            f"{rival.quality.value:.3f} ± {rival.standard_error:.3f}",
                            f"{rival.tokens:,.0f}",
                            signed(table.mean_of(gap, seed=self.seed)),
                        )
                    )
        return (
            "## Search\n\n"
            f"Beam search over prefixes that the self-evaluation ranks, on the first {num_prompts} "
            "problems. Below each beam stand settings of other families: of those that cost no "
            "more tokens, the one that costs most. Prefixes that were computed again are not "
            "counted, because a prefix cache saves them.\n\n"
            + markdown_table(("method", "quality", "tokens", "ahead of the beam by"), rows)
        )


_BEST_OF_N = "best of n by self-evaluation"


def merged(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return rows of a table whose neighbours differ in more than their first cell.

    Neighbours that do not become one row: "0.6" and "0.7" become "0.6 to 0.7".
    """
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[1:])]
    return [
        group[0] if len(group) == 1 else (f"{group[0][0]} to {group[-1][0]}", *group[0][1:])
        for group in groups
    ]


def _kept_row(summary: MethodSummary) -> tuple[str, str, str]:
    return (
        f"{summary.mean_samples:.2f}",
        percent(summary.improvement_kept),
        share(summary.tokens_saved),
    )


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _quality(table: ResultTable, name: str) -> float:
    return float(table.reward[:, table.column(name)].mean())


def _best_within(table: ResultTable, family: str, budget: float) -> str | None:
    """Return the best setting of a family that costs no more in the mean, if one does."""
    tokens = table.tokens.mean(0)
    names = [
        method.name
        for place, method in enumerate(table.methods)
        if method.family == family and tokens[place] <= budget
    ]
    return max(names, key=lambda name: _quality(table, name), default=None)


def _nearest(
    summaries: Mapping[str, MethodSummary], family: str, tokens: float
) -> MethodSummary | None:
    """Return the setting of a family that costs most among those that cost no more."""
    cheaper = [s for s in summaries.values() if s.family == family and s.tokens <= tokens]
    return max(cheaper, key=lambda s: s.tokens, default=None)
