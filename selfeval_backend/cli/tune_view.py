"""How ``aic tune`` shows its choice: as text or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from selfeval_backend.cli.console import show, show_json
from selfeval_backend.cli.eval_view import ranged
from selfeval_backend.evaluation.bootstrap import Estimate
from selfeval_backend.evaluation.tuning import Choice, Goal, policy_of
from selfeval_backend.samples.records import RecordingInfo

__all__ = ["print_choice"]

_UNITS = {
    "keep_quality": "of the improvement kept",
    "max_tokens_per_prompt": "tokens a prompt",
    "max_samples_mean": "samples a prompt",
}


def print_choice(
    choice: Choice, goal: Goal, info: RecordingInfo, *, to: Path | None, as_json: bool
) -> None:
    """Print the policy, what to expect of it, what is not shown, and where it goes now."""
    if as_json:
        document = {
            "goal": asdict(goal),
            "policy": policy_of(choice.settings),
            "num_candidates": choice.num_candidates,
            "num_chosen_on": choice.num_chosen_on,
            "num_reported_on": choice.num_reported_on,
            "reported": asdict(choice.reported),
            "reached": asdict(choice.reached),
            "shown": choice.shown,
            "num_prompts_needed": choice.num_prompts_needed,
            "to": None if to is None else str(to),
        }
        show_json(document)
        return
    row = choice.reported
    show(
        f"{info.model} on {info.task}: chosen of {choice.num_candidates:,} policies on "
        f"{choice.num_chosen_on} prompts, reported on {choice.num_reported_on} others.\n\n"
        f"Policy   {json.dumps(policy_of(choice.settings))}\n"
        f"Quality  {row.quality.value:.3f} [{row.quality.low:.3f}, {row.quality.high:.3f}], "
        f"improvement kept {ranged(row.improvement_kept, percent=True)}\n"
        f"Cost     {row.mean_samples:.2f} samples and {row.tokens:,.0f} tokens a prompt, "
        f"tokens saved {ranged(row.tokens_saved, percent=True)}\n"
    )
    show(_promise(choice, goal))
    if to is not None:
        show(f"It is written to {to}.")


def _promise(choice: Choice, goal: Goal) -> str:
    reached, unit = _figure(choice.reached, goal), _UNITS[goal.kind]
    limit = "at least" if goal.kind == "keep_quality" else "at most"
    asked = f"{goal.value:.0%}" if goal.kind == "keep_quality" else f"{goal.value:g}"
    if choice.shown:
        return f"Expect {limit} {asked} {unit}: {reached}."
    more = (
        f"About {choice.num_prompts_needed:,} recorded prompts would show it"
        if choice.num_prompts_needed
        else "More prompts would hardly show it: choose a lower goal"
    )
    return (
        f"Not promised: {limit} {asked} {unit}. These prompts show {reached}. {more}; "
        "--unproven writes it anyway."
    )


def _figure(reached: Estimate, goal: Goal) -> str:
    if goal.kind == "keep_quality":
        return ranged(reached, percent=True)
    return f"{reached.value:,.1f} [{reached.low:,.1f}, {reached.high:,.1f}]"
