"""The report: figures of held-out test prompts as tables and plots, and what to set.

It is the model card of the model folder that the pipeline ends in.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.markdown import markdown_table
from selfeval_backend.evaluation.plots import Curve, draw_curves, draw_reliability
from selfeval_backend.evaluation.quality import Prediction, predictions, running_at, whole
from selfeval_backend.files import finite, read_json, write_atomically, write_json, writing
from selfeval_backend.hashing import Hasher
from selfeval_backend.importing import import_function, source_digest
from selfeval_backend.samples.records import PromptRecord, Recording, SampleRecord
from selfeval_backend.samples.store import load_recording
from selfeval_backend.scorers import said
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.settings import Settings, resolve_settings
from selfeval_backend.training.base_model import base_folder
from selfeval_backend.training.branches import Row
from selfeval_backend.training.calibrate import rewarded_prompts
from selfeval_backend.training.figures import (
    measure_generator,
    measure_policies,
    measure_self_evaluation,
)
from selfeval_backend.training.finetune import load_weights
from selfeval_backend.training.pipeline import Workplace
from selfeval_backend.training.preservation import measure_kl
from selfeval_backend.training.recipe import Recipe
from selfeval_backend.training.signatures import Signature, find_signatures

__all__ = ["ReportStage"]

_KL_RESPONSES = 500
"""Of the base model, on which the KL is measured."""

_PLOT_SUFFIXES = (".png",)
"""What model pages show wherever they are read."""

_TEMPLATE = """\
# {name}

{notes}

The self-evaluation of `{model}`, {num_parameters:,} parameters, trained by the recipe `{name}`,
seed {seed}. Use this folder as a model: threshold, pruning and calibration are in `selfeval.json`.

## Failure signatures

{signatures}

## Measured

On {n} held-out test prompts, {num_samples} samples at temperature 1 and {num_samples} annealed ones
each. Policies are replayed on these samples by the same loop that answers users. Intervals are
95 %, bootstrapped over prompts; ± is one standard error.

**Generator.** Mean reward of one temperature-1 sample: {after} (before its self-evaluation was
trained: {before}). KL to the model before, on its own responses: {kl} nats a token. A response has
{length:.0f} tokens on average.

**Policies.** Tokens are per prompt: generated, and computed for self-evaluation; both count in
"saved". "Kept" is the share of the improvement of Best-of-{num_samples} over one sample.

{policies}

"adaptive" stops at a prob_win_or_tie of {threshold}{pruning}. Settings that were chosen on the
calibration prompts, and that the model ships with: {tuned}.

**Self-evaluation** of the temperature-1 samples. Pair accuracy: of two samples of one prompt with
different rewards, how often the better one has the higher prob_win_or_tie. Figures at a number of
tokens are of responses that run on past it.

{self_evaluation}

![reliability diagram](reliability.png)
![pair accuracy by position](pair_accuracy.png)
![training](training.png)

## The recipe

```json
{recipe}
```
"""


class ReportStage:
    """Measures the test prompts, and writes the folder to ship."""

    name = "report"
    needs = ("rollouts", "rewards", "finetune", "calibrate")

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        """Return what is put on the page beside the figures, and what finds answers."""
        found: dict[str, Any] = {
            "report": recipe.report.model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json", exclude={"folder"}),
        }
        if recipe.report.answer is not None:
            found["source of the answer function"] = source_digest(recipe.report.answer)
        return found

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        """Say what is measured."""
        return [f"figures of up to {recipe.calibrate.max_test_prompts:,} test prompts, and a page"]

    def run(self, place: Workplace) -> dict[str, Any]:
        """Measure, draw, and write the model folder `model`."""
        recipe = place.recipe
        shipped = place.upstream["calibrate"] / "model"
        folder = place.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            shutil.copytree(shipped, folder)
        measured = _Measured(place, shipped)
        figures = measured.figures()
        signatures = find_signatures(
            measured.predictions(whole), figures=figures, max_samples=recipe.calibrate.samples
        )
        figures["signatures"] = [asdict(signature) for signature in signatures]
        write_json(folder / "figures.json", figures)
        measured.draw(folder, figures)
        write_atomically(folder / "README.md", measured.page(figures, signatures))
        for signature in signatures:
            place.log(f"report: {signature.name}: {signature.evidence}. {signature.remedy}")
        if not signatures:
            place.log("report: no failure signature was found")
        _point(place.recipe.folder / recipe.name, folder)
        keys = ("before", "after", "kl", "signatures")
        chosen = {key: figures[key] for key in keys}
        found: dict[str, Any] = finite({**chosen, "whole": figures["self_evaluation"]["whole"]})
        return found


class _Measured:
    """The test prompts, and all about them."""

    def __init__(self, place: Workplace, shipped: Path) -> None:
        self._place, self._recipe = place, place.recipe
        config = SelfEvalConfig.load(shipped)
        assert config is not None, "the stage before wrote it"
        self._config = config
        self._after = load_recording(place.upstream["calibrate"] / "test")
        self._before = rewarded_prompts(
            place.upstream["rollouts"], place.upstream["rewards"], "test"
        )
        self._settings = resolve_settings({}, config.policy)
        if not self._settings.prune_at and self._recipe.calibrate.prune_at:
            # Measured where tuning chose none, so that the page says what pruning would cost.
            places = self._recipe.calibrate.prune_at[0]
            self._settings = replace(self._settings, prune_at=places, keep_fraction=0.5)
        self._settings = replace(self._settings, max_samples=self._recipe.calibrate.samples)
        self._num_parameters = 0

    def predictions(self, cut: Callable[[SampleRecord], int | None]) -> list[Prediction]:
        """Return what was said of the temperature-1 samples."""
        return predictions(
            self._after.on_policy,
            self._after.reader,
            cut,
            tie_threshold=self._recipe.preferences.tie_threshold,
        )

    def figures(self) -> dict[str, Any]:
        """Measure everything."""
        recipe, tell = self._recipe, self._place.progress
        found: dict[str, Any] = {
            "before": measure_generator(self._before),
            "after": measure_generator(self._after.on_policy),
        }
        tell("report", 1, 4)
        found["kl"] = self._kl()
        tell("report", 2, 4)
        found["policies"] = measure_policies(
            self._answered(),
            self._settings,
            seed=recipe.seed,
            num_resamples=recipe.report.resamples,
        )
        tell("report", 3, 4)
        found["self_evaluation"] = measure_self_evaluation(
            self._after,
            recipe.calibrate.positions,
            tie_threshold=recipe.preferences.tie_threshold,
            seed=recipe.seed,
        )
        tell("report", 4, 4)
        return found

    def _kl(self) -> dict[str, float]:
        before = load_weights(base_folder(self._recipe)).eval()
        after = load_weights(self._place.upstream["finetune"] / "model").eval()
        self._num_parameters = sum(p.numel() for p in after.parameters())
        rows = list(_responses(self._before))[:_KL_RESPONSES]
        return asdict(measure_kl(before, after, rows, seed=self._recipe.seed))

    def _answered(self) -> Recording:
        """Return the samples with the answers that the recipe finds in them, if it says how."""
        reference = self._recipe.report.answer
        if reference is None:
            return self._after
        extract = import_function("report.answer", reference, num_arguments=1)

        def answered(sample: SampleRecord) -> SampleRecord:
            try:
                return replace(sample, answer=extract(sample.text))
            except Exception as error:
                # A user's function may raise anything.
                raise DatasetError(f"report.answer: {reference} raised {said(error)}") from error

        prompts = tuple(
            replace(prompt, samples=tuple(map(answered, prompt.samples)))
            for prompt in self._after.prompts
        )
        return replace(self._after, prompts=prompts)

    def draw(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """Draw every plot of the page."""
        curves = {"end": self.predictions(whole)}
        for at in self._settings.prune_at:
            curves[f"{at} tokens"] = self.predictions(running_at(at))
        draw_reliability(
            folder / "reliability",
            curves,
            title="Reliability on held-out prompts, by where responses are cut",
            suffixes=_PLOT_SUFFIXES,
        )
        _draw_pair_accuracy(folder / "pair_accuracy", figures["self_evaluation"])
        logs = self._place.upstream["finetune"] / "logs"
        _draw_history(folder / "training", read_json(logs / "history.json", any_number=True))

    def page(self, figures: Mapping[str, Any], signatures: Sequence[Signature]) -> str:
        """Return the page in Markdown."""
        recipe, settings = self._recipe, self._settings
        return _TEMPLATE.format(
            name=recipe.name,
            notes=recipe.report.notes,
            model=recipe.model,
            num_parameters=self._num_parameters,
            seed=recipe.seed,
            signatures=_signature_list(signatures),
            n=figures["after"]["n"],
            num_samples=recipe.calibrate.samples,
            after=_with_error(figures["after"]["one_sample_accuracy"]),
            before=_with_error(figures["before"]["one_sample_accuracy"]),
            kl=_with_interval(figures["kl"], 5),
            length=figures["after"]["mean_response_tokens"],
            policies=_policy_table(figures["policies"]),
            threshold=settings.threshold,
            pruning=_pruning(settings),
            tuned=self._config.policy or "none",
            self_evaluation=_self_evaluation_table(figures["self_evaluation"]),
            recipe=json.dumps(recipe.model_dump(mode="json", exclude={"folder"}), indent=1),
        )


def _draw_pair_accuracy(stem: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw how many pairs of one prompt are in order, by the position of the cut."""
    found = {int(name): row["pair_accuracy"] for name, row in rows.items() if name.isdigit()}
    draw_curves(
        stem,
        [
            Curve(
                name="pair accuracy (band: 95 %)",
                x=tuple(sorted(found)),
                y=tuple(Estimate(**found[at]) for at in sorted(found)),
            )
        ],
        title="How well the self-evaluation orders samples of one prompt",
        x="generated tokens",
        y="pairs ordered right",
        lines={"chance": 0.5, "whole responses": rows["whole"]["pair_accuracy"]["value"]},
        suffixes=_PLOT_SUFFIXES,
    )


def _draw_history(stem: Path, phases: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw label loss, KL and pair accuracy over the steps of all phases."""
    starts, offset = {}, 0.0
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in _HISTORY}
    for phase, lines in phases.items():
        starts[phase] = offset
        for name, found in points.items():
            found += [(offset + line["step"], line[name]) for line in lines if name in line]
        offset += max((line["step"] for line in lines), default=0)
    curves = [
        Curve(
            name=name.removeprefix("eval_"),
            x=tuple(step for step, _ in found),
            y=tuple(value for _, value in found),
        )
        for name, found in points.items()
        if found
    ]
    draw_curves(
        stem,
        curves,
        title="Training",
        x="steps",
        y="loss, KL or accuracy",
        starts=starts,
        suffixes=_PLOT_SUFFIXES,
    )


_HISTORY = ("label", "kl", "eval_pair_accuracy_whole", "eval_pair_accuracy_half")
"""What training logs, and the report draws."""


def _responses(prompts: Sequence[PromptRecord]) -> Iterator[Row]:
    """Yield the first response of each prompt, then the second ones, and so on."""
    for place in range(max(len(p.samples) for p in prompts)):
        for prompt in prompts:
            if place < len(prompt.samples) and prompt.samples[place].token_ids:
                yield Row(
                    prompt_ids=prompt.prompt_ids,
                    response_ids=prompt.samples[place].token_ids,
                )


def _point(link: Path, folder: Path) -> None:
    """Let a name that stays the same point to the folder."""
    fresh = link.with_name(f"{link.name}.{os.getpid()}.partial")
    with writing(link):
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        fresh.replace(link)


def _signature_list(signatures: Sequence[Signature]) -> str:
    if not signatures:
        return "None was found."
    return "\n".join(f"- **{s.name}**: {s.evidence}. {s.remedy}" for s in signatures)


def _pruning(settings: Settings) -> str:
    if not settings.prune_at:
        return ""
    return (
        f'; "pruning" has checkpoints at {list(settings.prune_at)} tokens and keeps '
        f"{settings.keep_fraction} of the samples"
    )


def _policy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown_table(
        ("method", "mean reward", "samples", "generated", "self-evaluation", "kept", "saved"),
        (
            (
                row["method"],
                _with_error(row["accuracy"]),
                f"{row['mean_samples']:.2f}",
                f"{row['generated_tokens']:.0f}",
                f"{row['self_evaluation_tokens']:.0f}",
                _with_interval(row["improvement_kept"]),
                _with_interval(row["tokens_saved"]),
            )
            for row in rows
        ),
    ).rstrip("\n")


def _self_evaluation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return markdown_table(
        (
            "cut at",
            "pair accuracy",
            "AUROC",
            "ECE",
            "Brier",
            "mean said",
            "mean true",
            "responses",
        ),
        (
            (
                name,
                _with_interval(row["pair_accuracy"]),
                _with_interval(row["auroc"]),
                _with_interval(row["ece"], 4),
                _with_interval(row["brier"], 4),
                f"{row['mean_prediction']:.3f}",
                f"{row['mean_target']:.3f}",
                str(row["num_predictions"]),
            )
            for name, row in rows.items()
        ),
    ).rstrip("\n")


def _with_error(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"


def _with_interval(figure: Mapping[str, float], digits: int = 3) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
