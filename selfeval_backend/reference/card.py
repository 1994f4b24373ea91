"""The model card: figures as tables, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfeval_backend.evaluation.quality import Prediction

__all__ = ["draw_reliability", "write_card"]

_TEMPLATE = """\
---
license: apache-2.0
---
# The reference model

{num_parameters:,} parameters (Llama architecture, {num_layers} layers of {hidden_size}, float32),
with its own tokenizer and chat template. It shows this project's method for real on a machine
without a GPU. It solves one kind of problem: reach a target from two to four numbers by adding and
taking away, all of them used once, and up to three such puzzles after one another. It knows nothing
else, and its figures say nothing of larger models.

    Use 3, 19 and 25 to make 41, then 8 and 12 to make 20.

{notes}

Trained from nothing by `make reference` (`selfeval_backend/reference/recipe.py`), seed {seed},
commit `{commit}`, on {device}. Puzzles are split by a hash of their numbers and target: no puzzle
of a test or calibration problem was ever trained on, in any wording, order or company.

## Measured

On {n} held-out test problems, 16 samples at temperature 1 and 16 annealed ones each, seed {seed}.
Policies are replayed on these samples by the same loop that answers users. Intervals are 95 %,
bootstrapped over problems; ± is one standard error.

**Generator.** One temperature-1 sample: {after} (before its self-evaluation was trained: {before}).
{hard:.0%} of the problems are right at most once in 16, {easy:.0%} at least 15 times. A response
has {length:.0f} tokens on average.

**Policies.** Tokens are per problem: generated, and computed for self-evaluation; both count in
"saved". "Kept" is the share of the improvement of Best-of-16 over one sample.

{policies}

"adaptive" stops at a prob_win_or_tie of {threshold}; "pruning" has checkpoints at {prune_at}
tokens and keeps {keep_fraction} of the samples. The settings that tuning chose on the calibration
problems, and that the model ships with: {tuned}.

The gap from one sample to the oracle of 16 closed by Best-of-16: {gap_closed:.1%}.

**Self-evaluation** of the temperature-1 samples. Pair accuracy: a right and a wrong sample of one
problem, how often the right one has the higher prob_win_or_tie. Figures at a number of tokens are
of responses that run on past it.

{self_evaluation}

![reliability diagram](reliability.png)

## The recipe

{recipe}
"""


def write_card(
    path: Path,
    *,
    figures: Mapping[str, Any],
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the card.

    Args:
        path: The Markdown file.
        figures: What `figures.py` measured, under "before", "after", "policies" and
            "self_evaluation".
        recipe: Names and values.
        facts: num_parameters, commit, device.
    """
    by_name = {row["method"]: row["accuracy"]["value"] for row in figures["policies"]}
    floor, ceiling = by_name["one sample"], by_name["oracle of 16"]
    after = figures["after"]
    text = _TEMPLATE.format(
        **facts,
        num_layers=recipe["num_layers"],
        hidden_size=recipe["hidden_size"],
        seed=recipe["seed"],
        n=after["n"],
        after=_with_error(after["one_sample_accuracy"]),
        before=_with_error(figures["before"]["one_sample_accuracy"]),
        hard=after["prompts_right_at_most_1_in_16"],
        easy=after["prompts_right_at_least_15_in_16"],
        length=after["mean_response_tokens"],
        gap_closed=(by_name["best-of-16"] - floor) / (ceiling - floor),
        policies=_policy_table(figures["policies"]),
        self_evaluation=_self_evaluation_table(figures["self_evaluation"]),
        recipe="\n".join(f"- {name}: {value}" for name, value in recipe.items()),
    )
    path.write_text(text, encoding="utf-8")


def _policy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| method | accuracy | samples | generated | self-evaluation | kept | saved |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['method']} | {_with_error(row['accuracy'])} | {row['mean_samples']:.2f} "
        f"| {row['generated_tokens']:.0f} | {row['self_evaluation_tokens']:.0f} "
        f"| {_with_interval(row['improvement_kept'])} | {_with_interval(row['tokens_saved'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def _self_evaluation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| cut at | pair accuracy | ECE | Brier | mean said | mean true | responses |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {_with_interval(row['pair_accuracy'])} | {_with_interval(row['ece'], 4)} "
            f"| {row['brier']:.4f} | {row['mean_prediction']:.3f} | {row['mean_target']:.3f} "
            f"| {row['num_predictions']} |"
        )
    return "\n".join(lines)


def _with_error(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"


def _with_interval(figure: Mapping[str, float], digits: int = 3) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def draw_reliability(path: Path, curves: Mapping[str, Sequence[Prediction]]) -> None:
    """Draw what was said against what was true, one line for each cut, equal counts a point."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5), dpi=100, layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, items in curves.items():
        ordered = sorted(items, key=lambda p: p.prob_win_or_tie)
        bins = np.array_split(np.arange(len(ordered)), 12)
        said = [np.mean([ordered[i].prob_win_or_tie for i in b]) for b in bins]
        true = [np.mean([ordered[i].target for i in b]) for b in bins]
        axes.plot(said, true, marker="o", markersize=3, linewidth=1, label=name)
    axes.set(xlabel="prob_win_or_tie, said", ylabel="share of fresh samples not better, true")
    axes.set(xlim=(0, 1), ylim=(0, 1), title="Reliability on held-out problems")
    axes.legend(title="response cut at", frameon=False)
    figure.savefig(path)
    plt.close(figure)
