"""``aic tune``: choose the policy for a goal, and write it for the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfeval_backend.cli.console import REFUSED
from selfeval_backend.cli.running import one_line_errors
from selfeval_backend.errors import ConfigurationError, DatasetError

if TYPE_CHECKING:
    from selfeval_backend.evaluation.tuning import Choice, Goal
    from selfeval_backend.samples.records import RecordingInfo
    from selfeval_backend.selfeval import SelfEvalConfig

__all__ = ["tune"]


def tune(
    *,
    rollouts: Annotated[Path, typer.Option(help="The folder in which aic eval kept its samples.")],
    keep_quality: Annotated[
        float | None,
        typer.Option(
            help="Cheapest policy that keeps this share of Best-of-N's improvement.",
            show_default="0.95, if no other goal is set",
        ),
    ] = None,
    max_tokens_per_prompt: Annotated[
        float | None,
        typer.Option(help="Best policy that needs at most this many tokens a prompt, in the mean."),
    ] = None,
    max_samples_mean: Annotated[
        float | None,
        typer.Option(
            help="Best policy that draws at most this many samples a prompt, in the mean."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model whose selfeval.json is written.",
            show_default="the model that was recorded",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder, or a file that ends in .json, to write instead.",
            show_default="beside the model, or in your own folder if you may not write there",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    unproven: Annotated[
        bool,
        typer.Option(
            "--unproven",
            help="Write the policy even if the prompts do not show that it reaches the goal.",
        ),
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Refuse if more than this share of the rewards failed.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the halves and of intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Choose a policy on one half of the prompts, report on the other, and write selfeval.json."""
    with one_line_errors():
        from selfeval_backend.cli.progress import live_progress
        from selfeval_backend.cli.tune_view import print_choice
        from selfeval_backend.evaluation.tuning import choose_policy
        from selfeval_backend.samples.provenance import changes_since
        from selfeval_backend.samples.store import load_recording

        goal = _goal(keep_quality, max_tokens_per_prompt, max_samples_mean)
        recording = load_recording(rollouts, max_error_share=max_error_share)
        for line in changes_since(recording, rollouts):
            warnings.warn(line, stacklevel=1)
        target = None if dry_run else _target(model or recording.info.model, out)
        with live_progress() as progress:
            choice = choose_policy(
                recording, goal, seed=seed, progress=lambda done, of: progress("tuning", done, of)
            )
        if not choice.shown and not unproven:
            target = None
        # First of all: an hour's choice is not lost where it cannot be written.
        to = None if target is None else target.path
        print_choice(choice, goal, recording.info, to=to, as_json=as_json)
        if target is not None:
            _write(target, choice, recording.info, goal, seed)
    if not choice.shown and not unproven:
        raise typer.Exit(REFUSED)


def _goal(keep_quality: float | None, max_tokens: float | None, max_samples: float | None) -> Goal:
    from selfeval_backend.evaluation.tuning import Goal

    goals = [
        Goal(kind="keep_quality", value=keep_quality) if keep_quality is not None else None,
        Goal(kind="max_tokens_per_prompt", value=max_tokens) if max_tokens is not None else None,
        Goal(kind="max_samples_mean", value=max_samples) if max_samples is not None else None,
    ]
    given = [goal for goal in goals if goal is not None]
    if len(given) > 1:
        raise ConfigurationError(
            "goal",
            [goal.kind for goal in given],
            "one of --keep-quality, --max-tokens-per-prompt and --max-samples-mean",
        )
    return given[0] if given else Goal(kind="keep_quality", value=0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What is changed, and where it is written to."""

    config: SelfEvalConfig
    path: Path


def _target(model: str, out: Path | None) -> _Target:
    """Find both, before the time is spent that tuning takes."""
    from selfeval_backend.cli.fetching import fetch_first
    from selfeval_backend.files import check_can_write
    from selfeval_backend.model import file_to_write, find_selfeval, locate_model_files
    from selfeval_backend.selfeval import FILE_NAME

    fetch_first(model)
    folder = locate_model_files(model, with_weights=False)
    config = find_selfeval(folder).config
    if config is None:
        raise ConfigurationError(
            "model",
            model,
            "one with a selfeval.json",
            remedy="Nothing shows that this one tells its samples apart: `aic train` teaches it.",
        )
    try:
        if out is None:
            path = file_to_write(folder)
        else:
            path = out if out.suffix == ".json" else out / FILE_NAME
            check_can_write(path)
    except DatasetError as error:
        raise DatasetError(f"{error} Choose another place with --out.") from error
    return _Target(config=config, path=path)


def _write(target: _Target, choice: Choice, info: RecordingInfo, goal: Goal, seed: int) -> None:
    """Write the policy, and where it comes from."""
    from selfeval_backend.evaluation.tuning import policy_of

    provenance = {
        "goal": f"{goal.kind} {goal.value:g}",
        "task": info.task,
        "num_prompts": choice.num_chosen_on + choice.num_reported_on,
        "seed": seed,
        "reached": [choice.reached.value, choice.reached.low, choice.reached.high],
        "shown": choice.shown,
    }
    config = target.config
    config.model_copy(
        update={
            "policy": policy_of(choice.settings),
            "provenance": {**config.provenance, "tuned": provenance},
        }
    ).write(target.path)
