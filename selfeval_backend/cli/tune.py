"""``aic tune``: choose the policy for what one is ready to pay, and write it beside the model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfeval_backend.cli.running import REFUSED, one_line_errors
from selfeval_backend.errors import ConfigurationError

if TYPE_CHECKING:
    from selfeval_backend.evaluation.choosing import Choice, Goal
    from selfeval_backend.evaluation.recordings import RecordingInfo

__all__ = ["tune"]


def tune(
    *,
    rollouts: Annotated[Path, typer.Option(help="Where aic eval kept its samples.")],
    keep_quality: Annotated[
        float | None,
        typer.Option(
            help="The cheapest policy that keeps this share of the improvement of Best-of-N.",
            show_default="0.95, if no other goal is set",
        ),
    ] = None,
    max_tokens_per_prompt: Annotated[
        float | None,
        typer.Option(help="The best policy of at most so many tokens in the mean."),
    ] = None,
    max_samples_mean: Annotated[
        float | None, typer.Option(help="The best policy of at most so many samples in the mean.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose selfeval.json is written.", show_default="the model that was recorded"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    unproven: Annotated[
        bool,
        typer.Option("--unproven", help="Write also what the prompts are too few to show."),
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Of all rewards: more that failed are refused.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the halves and of intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Choose a policy on one half of the prompts, report on the other, write selfeval.json."""
    with one_line_errors():
        from selfeval_backend.cli.progress import live_progress
        from selfeval_backend.cli.tune_view import print_choice
        from selfeval_backend.evaluation.changes import changes_since
        from selfeval_backend.evaluation.choosing import choose_policy
        from selfeval_backend.evaluation.recordings import load_recording

        goal = _goal(keep_quality, max_tokens_per_prompt, max_samples_mean)
        recording = load_recording(rollouts, max_error_share=max_error_share)
        for line in changes_since(recording, rollouts):
            warnings.warn(line, stacklevel=1)
        with live_progress() as progress:
            choice = choose_policy(
                recording, goal, seed=seed, progress=lambda done, of: progress("tuning", done, of)
            )
        written = None
        if not dry_run and (choice.shown or unproven):
            written = _write(model or recording.info.model, choice, recording.info, goal, seed)
        print_choice(choice, goal, recording.info, written=written, as_json=as_json)
    if not choice.shown and not unproven:
        raise typer.Exit(REFUSED)


def _goal(keep_quality: float | None, max_tokens: float | None, max_samples: float | None) -> Goal:
    from selfeval_backend.evaluation.choosing import Goal

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


def _write(model: str, choice: Choice, info: RecordingInfo, goal: Goal, seed: int) -> Path:
    """Write the policy, and where it comes from, into the model's selfeval.json."""
    from selfeval_backend.checkpoints import locate_checkpoint
    from selfeval_backend.evaluation.choosing import policy_of
    from selfeval_backend.selfeval import FILE_NAME, SelfEvalConfig

    folder = locate_checkpoint(model, with_weights=False)
    config = SelfEvalConfig.load(folder) or SelfEvalConfig()
    provenance = {
        "goal": f"{goal.kind} {goal.value:g}",
        "task": info.task,
        "num_prompts": choice.num_chosen_on + choice.num_reported_on,
        "seed": seed,
        "reached": [choice.reached.value, choice.reached.low, choice.reached.high],
        "shown": choice.shown,
    }
    config.model_copy(
        update={
            "policy": policy_of(choice.settings),
            "provenance": {**config.provenance, "tuned": provenance},
        }
    ).save(folder)
    return folder / FILE_NAME
