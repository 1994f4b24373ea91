"""Ablations of how the self-evaluation is trained, on short problems of the reference domain.

Draws one set of rollouts, and then fine-tunes, calibrates and measures every variant at one equal
budget: with and without ties, tie thresholds under a continuous reward, with and without random
cuts, flipped rewards, fewer preference pairs, KL weights. Every result is saved at once; a stopped
run goes on where it was. Writes ``ablations.json``, ``ablations.png`` and a page of tables.

What is trained is the reference model's generator, which has learned contrast on demonstrations and
has never judged a sample of its own.

    python benchmarks/ablations.py [--folder build/ablations] [--seeds 2] [--only flips,kl]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfeval_backend.evaluation.bootstrap import Estimate, bootstrap
from selfeval_backend.evaluation.quality import (
    Prediction,
    auroc,
    brier_score,
    expected_calibration_error,
    pair_accuracy,
    predictions,
    running_at,
    whole,
)
from selfeval_backend.files import read_json, write_atomically
from selfeval_backend.reference.task import score
from selfeval_backend.samples.records import PromptRecord, SampleRecord
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.training.base_model import base_folder, load_asking
from selfeval_backend.training.branches import Row
from selfeval_backend.training.calibrate import fit_calibration, rewarded_prompts
from selfeval_backend.training.finetune import FinetuneStage, load_weights, pad_id_of
from selfeval_backend.training.optim import denormals_as_zero
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.preferences import PreferenceStage
from selfeval_backend.training.preservation import measure_kl
from selfeval_backend.training.prompts import stored_prompts
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.rollouts import draw_of, open_recorder, plan_of
from selfeval_backend.training.scoring import score_prefixes
from selfeval_backend.training.stages import make_pipeline

SHAPES = ((4,), (3, 2))
SAMPLES = 8
FRESH_SAMPLES = 4
POSITIONS = (24,)
PROMPTS = {"train": 400, "validation": 0, "calibration": 1, "test": 160}
NUM_CALIBRATED = 60
"""Held-out problems that the maps are fitted on; the others are measured."""
SHOWN_CUTS = ("whole", "half")
KL_RESPONSES = 100
BUDGET = {"contrast": 30, "preferences": 40}
"""Steps of 16 responses."""
ADAMW: Mapping[str, Any] = {
    "optimizer": "adamw",
    "adam_lr": None,
    "contrast": {"lr": 0.001},
    "preferences": {"lr": 0.001},
}
"""Muon's steps have one size whatever the gradient, so that a weight hardly matters to it."""
TASK = "selfeval_backend.reference.task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train, and what it differs in from the base."""

    group: str
    name: str
    preferences: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    continuous: bool = False
    """Rewarded by `score_less_length`, not by `score`."""
    fresh: bool = False
    """Whether the generator's pass@1 is measured too, on samples of its own."""

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return re.sub(r"[^\w.]+", "-", self.name)


GROUPS = (
    "before",
    "base",
    "ties",
    "threshold",
    "cuts",
    "contrast",
    "flips",
    "pairs",
    "kl",
    "blend",
)
"""In the order of the tables."""
BEFORE = Variant(group="before", name="before any of it")
VARIANTS = (
    Variant(group="base", name="base", fresh=True),
    Variant(group="ties", name="pairs that tie are left out", preferences={"ties": "drop"}),
    Variant(group="cuts", name="whole responses only", preferences={"cut_at_random": False}),
    *(
        Variant(group="flips", name=f"{share:.0%} flipped", preferences={"flip_share": share})
        for share in (0.2, 0.1, 0.05)
    ),
    *(
        Variant(group="pairs", name=f"{count} prompts", preferences={"max_prompts": count})
        for count in (20, 100)
    ),
    *(
        Variant(
            group="threshold",
            name=f"tie threshold {threshold:g}",
            preferences={"tie_threshold": threshold},
            continuous=True,
        )
        for threshold in (0.005, 0.05)
    ),
    *(
        Variant(
            group="kl", name=f"KL weight {weight:g}", finetune={"kl_weight": weight}, fresh=True
        )
        for weight in (0.0, 10.0)
    ),
    *(
        Variant(
            group="kl",
            name=f"AdamW, KL weight {weight:g}",
            finetune={**ADAMW, "kl_weight": weight},
            fresh=True,
        )
        for weight in (0.0, 1.0, 10.0)
    ),
    Variant(
        group="contrast",
        name="no contrast first",
        finetune={"contrast": None, "preferences": {"steps": sum(BUDGET.values())}},
    ),
    Variant(group="blend", name="not blended", finetune={"blend": 1.0}, fresh=True),
    *(
        Variant(
            group="threshold",
            name=f"tie threshold {threshold:g}",
            preferences={"tie_threshold": threshold},
            continuous=True,
        )
        for threshold in (0.02, 0.01)
    ),
)


def base_recipe(folder: Path, *, continuous: bool) -> Recipe:
    """Return the recipe that every variant departs from: the reference's, with a smaller budget."""
    arguments = {**PROMPTS, "shapes": [list(shape) for shape in SHAPES]}
    phase = {"lr": 0.004, "warmup_steps": 5}
    return Recipe.model_validate(
        {
            "name": "ablations",
            "model": "reference-base",
            "folder": str(folder / "stages"),
            "prompts": {
                "source": {
                    "kind": "function",
                    "function": f"{TASK}:prompts",
                    "arguments": arguments,
                }
            },
            "rollouts": {
                "samples": SAMPLES,
                "max_tokens": 128,
                "engine": "transformers",
                "shard_prompts": 140,
            },
            "rewards": {
                "kind": "function",
                "function": f"{TASK}:{'score_less_length' if continuous else 'score'}",
            },
            "preferences": {"tie_threshold": 0.0, "num_cuts": 4},
            "finetune": {
                "optimizer": "muon",
                "adam_lr": 0.0006,
                "batch_size": 16,
                "kl_weight": 1.0,
                "blend": 0.7,
                "contrast": {"steps": BUDGET["contrast"], **phase},
                "preferences": {"steps": BUDGET["preferences"], **phase},
            },
            "calibrate": {"samples": SAMPLES, "max_test_prompts": PROMPTS["test"]},
        }
    )


def changed(recipe: Recipe, variant: Variant, seed: int) -> Recipe:
    """Return the recipe of a variant."""
    body = recipe.model_dump(mode="json")
    body["preferences"].update(variant.preferences)
    for name, value in variant.finetune.items():
        if isinstance(value, dict):
            body["finetune"][name].update(value)
        else:
            body["finetune"][name] = value
    return Recipe.model_validate({**body, "seed": seed})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Samples of the generator to problems that no variant was trained on."""

    recipe: Recipe
    """The base."""
    upstream: Mapping[str, Path]
    rollouts: Sequence[PromptRecord]
    continuous: Sequence[PromptRecord]
    """The same samples with the other reward."""


def prepare(folder: Path, log: Callable[[str], None]) -> tuple[Held, Held]:
    """Draw and reward; return what binary and continuous variants build on."""
    both = []
    for continuous in (False, True):
        recipe = base_recipe(folder, continuous=continuous)
        pipeline = make_pipeline(recipe, progress=lambda *_: None, log=log)
        pipeline.run("rewards")
        both.append((recipe, {name: pipeline.folder(name) for name in ("rollouts", "rewards")}))
        prompts = pipeline.folder("prompts")
    rollouts, continuous_ones = (
        rewarded_prompts(upstream["rollouts"], upstream["rewards"], "test") for _, upstream in both
    )
    binary, other = (
        Held(
            recipe=recipe,
            upstream={**upstream, "prompts": prompts},
            rollouts=rollouts,
            continuous=continuous_ones,
        )
        for recipe, upstream in both
    )
    return binary, other


def run(variant: Variant, seed: int, held: Held, folder: Path, log: Callable[[str], None]) -> None:
    """Train and measure one variant, unless that is done; the result is a file in `folder`."""
    result = folder / "result.json"
    if result.exists():
        return
    began, cpu = time.monotonic(), time.process_time()
    recipe = changed(held.recipe, variant, seed)
    figures = {}
    upstream = dict(held.upstream)
    for stage in (PreferenceStage(), FinetuneStage()):
        place = Workplace(
            recipe=recipe,
            folder=folder / stage.name,
            upstream=upstream,
            progress=lambda *_: None,
            log=lambda line: log(f"{variant.name}, seed {seed}: {line}"),
        )
        place.folder.mkdir(parents=True, exist_ok=True)
        figures[stage.name] = stage.run(place)
        upstream[stage.name] = place.folder
    trained = time.monotonic()
    body = {
        "group": variant.group,
        "name": variant.name,
        "seed": seed,
        "counts": figures["preferences"],
        **measure(variant, recipe, held, folder / "finetune" / "model"),
        "finetune_s": round(trained - began, 1),
        "measure_s": round(time.monotonic() - trained, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "load": os.getloadavg()[0],
    }
    write_atomically(result, json.dumps(body) + "\n")
    shutil.rmtree(folder / "preferences")
    log(f"{variant.name}, seed {seed}: {summary(body)}")


def run_before(held: Held, folder: Path, log: Callable[[str], None]) -> None:
    """Measure what the generator says before its self-evaluation is trained."""
    result = folder / "result.json"
    if result.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "group": BEFORE.group,
        "name": BEFORE.name,
        "seed": 0,
        "counts": {},
        **measure(BEFORE, held.recipe, held, base_folder(held.recipe)),
        "finetune_s": 0.0,
        "measure_s": 0.0,
        "cpu_s": 0.0,
        "load": os.getloadavg()[0],
    }
    write_atomically(result, json.dumps(body) + "\n")
    log(f"{BEFORE.name}: {summary(body)}")


def summary(body: Mapping[str, Any]) -> str:
    """Return one line of a result."""
    at = {name: body[name]["pair_accuracy"]["value"] for name in ("whole", "half")}
    return (
        f"pairs whole {at['whole']:.3f}, half {at['half']:.3f}; "
        f"AUROC {body['whole']['auroc']['value']:.3f}; "
        f"Best-of-{SAMPLES} {body['best_of_n']['value']:.3f}; KL {body['kl']['value']:.5f}; "
        f"{body['finetune_s']} s and {body['measure_s']} s"
    )


def measure(variant: Variant, recipe: Recipe, held: Held, folder: Path) -> dict[str, Any]:
    """Calibrate on some of the held-out problems, and measure on the rest."""
    asking = load_asking(recipe)
    model = load_weights(folder).eval()
    scored = score_prefixes(
        held.rollouts,
        model,
        cuts=lambda s: [*(n for n in POSITIONS if n < len(s.token_ids)), len(s.token_ids) // 2],
        question_ids=asking.evaluator.question_ids,
        label_ids=asking.evaluator.label_ids,
        pad_id=pad_id_of(folder),
    )
    maps = fit_calibration(scored[:NUM_CALIBRATED], asking.evaluator, POSITIONS)
    config = asking.config.model_copy(update={"calibration": maps})
    evaluator = SelfEvaluator(config, asking.chat)
    test, other = scored[NUM_CALIBRATED:], held.continuous[NUM_CALIBRATED:]
    cuts: dict[str, Callable[[SampleRecord], int | None]] = {
        "whole": whole,
        "half": lambda sample: len(sample.token_ids) // 2,
        **{str(position): running_at(position) for position in POSITIONS},
    }
    found: dict[str, Any] = {}
    counts: dict[str, list[list[float]]] = {}
    for name, cut in cuts.items():
        items = predictions(test, evaluator, cut)
        found[name] = quality(items)
        if name in SHOWN_CUTS:
            counts[name] = pair_counts(items)
    found["pair_counts"] = counts
    chosen = [best(prompt) for prompt in test]
    found["best_of_n"] = mean([r.samples[k].reward for r, k in zip(test, chosen, strict=True)])
    found["best_of_n_less_length"] = mean(
        [r.samples[k].reward for r, k in zip(other, chosen, strict=True)]
    )
    found["oracle"] = mean([max(s.reward for s in r.samples) for r in test])
    found["one_sample"] = mean([float(np.mean([s.reward for s in r.samples])) for r in test])
    before = load_weights(base_folder(recipe)).eval()
    rows = [
        Row(prompt_ids=r.prompt_ids, response_ids=r.samples[0].token_ids)
        for r in test[:KL_RESPONSES]
    ]
    found["kl"] = asdict(measure_kl(before, model, rows, seed=0))
    if variant.fresh:
        found["pass_at_1"] = asyncio.run(pass_at_1(held, folder))
    return found


def quality(items: Sequence[Prediction]) -> dict[str, Any]:
    """Return the figures of one cut, and what they are of."""
    return {
        "pair_accuracy": asdict(pair_accuracy.estimate(items, seed=0)),
        "auroc": asdict(auroc.estimate(items, seed=0)),
        "ece": asdict(expected_calibration_error.estimate(items, seed=0)),
        "brier": brier_score(items),
        "mean_raw": float(np.mean([1 / (1 + np.exp(-p.logit)) for p in items])),
        "mean_target": float(np.mean([p.target for p in items])),
        "n": len(items),
    }


def pair_counts(items: Sequence[Prediction]) -> list[list[float]]:
    """Return for each prompt how many of its pairs are in order, and how many there are."""
    counts: dict[int, list[float]] = {}
    groups: dict[int, list[Prediction]] = {}
    for item in items:
        groups.setdefault(item.prompt, []).append(item)
    for prompt, group in groups.items():
        logits, rewards = (np.array([getattr(p, n) for p in group]) for n in ("logit", "reward"))
        better = rewards[:, None] > rewards
        in_order = (np.sign(logits[:, None] - logits) + 1) / 2
        counts[prompt] = [float((better * in_order).sum()), float(better.sum())]
    return [counts.get(prompt, [0.0, 0.0]) for prompt in range(max(counts) + 1)]


def best(prompt: PromptRecord) -> int:
    """Return which sample the self-evaluation chooses."""
    pairs = [s.label_logprobs[len(s.token_ids)] for s in prompt.samples]
    said = [win_or_tie - loss for win_or_tie, loss in pairs]
    return int(np.argmax(said))


def mean(values: Sequence[float]) -> dict[str, float]:
    """Return a mean over prompts and its standard error."""
    array = np.array(values)
    return {
        "value": float(array.mean()),
        "standard_error": float(array.std(ddof=1) / np.sqrt(len(array))),
    }


async def pass_at_1(held: Held, folder: Path) -> dict[str, Any]:
    """Draw the test problems anew with the trained model: before, after, paired difference.

    The seeds of the samples are those that the generator had.
    """
    plan = plan_of(held.recipe, num_samples=FRESH_SAMPLES)
    prompts = list(stored_prompts(held.upstream["prompts"], ("test",)))
    recorder = open_recorder(held.recipe, folder)
    try:
        drawn = await recorder.draw([draw_of(held.recipe, prompt, plan) for prompt in prompts])
    finally:
        await recorder.engine.aclose()
    after = [
        float(np.mean([score("", s.text, str(p.reference)) for s in p.samples])) for p in drawn
    ]
    before = [float(np.mean([s.reward for s in r.samples[:FRESH_SAMPLES]])) for r in held.rollouts]
    return {
        "before": mean(before),
        "after": mean(after),
        "difference": mean([a - b for a, b in zip(after, before, strict=True)]),
        "n": len(prompts),
        "samples": FRESH_SAMPLES,
    }


def load_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of every variant, one a seed, in the order of the variants."""
    found: dict[str, list[dict[str, Any]]] = {}
    for variant in sorted((BEFORE, *VARIANTS), key=lambda variant: GROUPS.index(variant.group)):
        paths = sorted(folder.glob(f"runs/{variant.slug}-*/result.json"))
        if paths:
            found[variant.name] = [read_json(path, any_number=True) for path in paths]
    return found


def difference(
    mine: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], cut: str
) -> Estimate | None:
    """Return pair accuracy less that of the base with the same seeds, paired over prompts."""
    seeds = {b["seed"]: b for b in base}
    both = [(m, seeds[m["seed"]]) for m in mine if m["seed"] in seeds]
    if not both:
        return None
    sides = [
        np.sum([np.array(side["pair_counts"][cut]) for side in some], axis=0)
        for some in zip(*both, strict=True)
    ]  # [P, 2] each

    def gap(weights: np.ndarray) -> float:
        a, b = (weights @ side for side in sides)
        return float(a[0] / a[1] - b[0] / b[1])

    return bootstrap(gap, len(sides[0]), seed=0)


def pooled(results: Sequence[Mapping[str, Any]], *names: str) -> float:
    """Return the mean over seeds of a figure."""
    values = []
    for body in results:
        value: Any = body
        for name in names:
            value = value[name]
        values.append(value)
    return float(np.mean(values))


def row(results: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the tables say of a variant: means over its seeds."""
    first = results[0]
    counts = {
        outcome: pooled(results, "counts", f"train {outcome}")
        for outcome in ("wins", "ties", "losses")
        if f"train {outcome}" in first["counts"]
    }
    found: dict[str, Any] = {
        "group": first["group"],
        "name": first["name"],
        "seeds": [body["seed"] for body in results],
        "labels": counts,
        "best_of_n": pooled(results, "best_of_n", "value"),
        "best_of_n_standard_error": pooled(results, "best_of_n", "standard_error"),
        "best_of_n_less_length": pooled(results, "best_of_n_less_length", "value"),
        "one_sample": pooled(results, "one_sample", "value"),
        "oracle": pooled(results, "oracle", "value"),
        "kl": pooled(results, "kl", "value"),
        "finetune_s": pooled(results, "finetune_s"),
        "cpu_s": pooled(results, "cpu_s"),
        "by_seed": [
            {cut: body[cut]["pair_accuracy"] for cut in ("whole", "half", *map(str, POSITIONS))}
            for body in results
        ],
    }
    for cut in SHOWN_CUTS:
        gap = difference(results, base, cut)
        found[cut] = {
            "pair_accuracy": pooled(results, cut, "pair_accuracy", "value"),
            "less_base": None if gap is None else asdict(gap),
            "auroc": pooled(results, cut, "auroc", "value"),
            "ece": pooled(results, cut, "ece", "value"),
            "mean_raw": pooled(results, cut, "mean_raw"),
            "mean_target": pooled(results, cut, "mean_target"),
        }
    if "pass_at_1" in first:
        found["pass_at_1"] = [body["pass_at_1"] for body in results]
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| variant | seeds | labels: win / tie / loss | pairs in order, whole | less base "
        f"| half | less base | AUROC | said raw | ECE | Best-of-{SAMPLES} | less length | KL "
        "| pass@1 after less before |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in rows:
        total = sum(found["labels"].values()) or 1
        labels = " / ".join(
            f"{found['labels'].get(name, 0) / total:.0%}" for name in ("wins", "ties", "losses")
        )
        gaps = [found[cut]["less_base"] for cut in SHOWN_CUTS]
        shown = [
            "" if gap is None else f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
            for gap in gaps
        ]
        passed = ", ".join(
            f"{p['difference']['value']:+.3f} ± {p['difference']['standard_error']:.3f}"
            for p in found.get("pass_at_1", ())
        )
        lines.append(
            f"| {found['name']} | {len(found['seeds'])} | {labels} "
            f"| {found['whole']['pair_accuracy']:.3f} | {shown[0]} "
            f"| {found['half']['pair_accuracy']:.3f} | {shown[1]} "
            f"| {found['whole']['auroc']:.3f} | {found['whole']['mean_raw']:.2f} "
            f"| {found['whole']['ece']:.3f} "
            f"| {found['best_of_n']:.3f} ± {found['best_of_n_standard_error']:.3f} "
            f"| {found['best_of_n_less_length']:.3f} | {found['kl']:.4f} | {passed} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the pair accuracy of every variant, whole and half, a dot each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.32 * len(rows) + 1.2), dpi=80, layout="constrained")
    for color, cut in enumerate(SHOWN_CUTS):
        for place, found in enumerate(rows):
            for seed in found["by_seed"]:
                estimate = seed[cut]
                axes.plot(
                    [estimate["low"], estimate["high"]],
                    [-place - 0.2 * color] * 2,
                    color=f"C{color}",
                    alpha=0.5,
                )
            axes.plot(
                [seed[cut]["value"] for seed in found["by_seed"]],
                [-place - 0.2 * color] * len(found["by_seed"]),
                "o",
                color=f"C{color}",
                markersize=4,
                label=cut if place == 0 else None,
            )
    axes.set_yticks([-place for place in range(len(rows))], [found["name"] for found in rows])
    axes.set(xlabel="pairs of one problem in order, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(title="response", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)
    plt.close(figure)


def report(folder: Path, results: Path) -> None:
    """Write JSON, plot and tables of what is done."""
    found = load_results(folder)
    if not found:
        return
    base = found.get("base", [])
    rows = [row(some, base) for some in found.values()]
    results.mkdir(parents=True, exist_ok=True)
    body = {
        "model": "reference-base",
        "budget_steps": BUDGET,
        "responses_of_a_step": 16,
        "prompts": PROMPTS,
        "shapes": SHAPES,
        "samples": SAMPLES,
        "variants": rows,
    }
    write_atomically(results / "ablations.json", json.dumps(body, indent=1) + "\n")
    plot(rows, results / "ablations.png")
    write_atomically(folder / "ablations.md", table(rows) + "\n")


def main() -> int:
    """Run what is not done yet, and write table, JSON and plot of what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("build/ablations"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="groups, with commas between")
    parser.add_argument("--until", choices=("rollouts", "report"), default="report")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    binary, continuous = prepare(arguments.folder, log)
    shares = [float(np.mean([s.reward for s in r.samples])) for r in binary.rollouts]
    log(f"one sample right, held-out problems: {mean(shares)}")
    if arguments.until == "rollouts":
        return 0
    groups = set(filter(None, arguments.only.split(",")))
    run_before(binary, arguments.folder / "runs" / f"{BEFORE.slug}-0", log)
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            if groups and variant.group not in groups:
                continue
            held = continuous if variant.continuous else binary
            run(variant, seed, held, arguments.folder / "runs" / f"{variant.slug}-{seed}", log)
            report(arguments.folder, arguments.results)
    print((arguments.folder / "ablations.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    with denormals_as_zero():
        sys.exit(main())
