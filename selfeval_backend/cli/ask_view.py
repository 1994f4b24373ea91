"""How ``aic ask`` shows an answer: as text and a table, or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from selfeval_backend.cli.console import plain_table, show, show_json, show_table
from selfeval_backend.evaluation.metrics import EstimatedSaving, estimate_saving
from selfeval_backend.model import Answer
from selfeval_backend.types import Outcome, Sample, to_json

__all__ = ["Asked", "print_json", "print_tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt, its answer, and the texts of all samples."""

    prompt: str
    answer: Answer
    texts: tuple[str, ...]
    """In the order of the samples."""

    def saving(self) -> EstimatedSaving:
        """Return what was saved, estimated."""
        return estimate_saving(self.answer.outcome, max_samples=self.answer.settings.max_samples)


def print_json(asked: Asked) -> None:
    """Print the whole outcome with its trace, as one JSON document on stdout."""
    answer = asked.answer
    outcome: dict[str, Any] = to_json(answer.outcome)
    samples = [
        {**sample, "fate": answer.outcome.fate(index), "text": asked.texts[index]}
        for index, sample in enumerate(outcome["samples"])
    ]
    document = {
        "model": answer.model,
        "engine": answer.engine,
        "prompt": asked.prompt,
        "answer": answer.text,
        "confidence": outcome["confidence"],
        "calibrated": outcome["calibrated"],
        "level": answer.level,
        "no_confidence": answer.no_confidence,
        "stop_reason": outcome["stop_reason"],
        "best": outcome["best"],
        "samples": samples,
        "usage": outcome["usage"],
        "estimated_saving": asdict(asked.saving()),
        "settings": {**to_json(answer.settings.values), "seed": answer.seed},
        "settings_sources": answer.settings.sources,
        "trace": {
            "events": outcome["trace"]["events"],
            "shaping": outcome["trace"]["shaping"],
            "fault": outcome["trace"]["fault"],
        },
    }
    show_json(document)


def print_tables(asked: Asked) -> None:
    """Print the answer, its confidence, the table of samples, what was saved and why it ended."""
    answer, outcome = asked.answer, asked.answer.outcome
    show(f"{answer.text}\n")
    show(_confidence(answer))
    note = "" if _calibrated(outcome) else " (not calibrated)"
    asked_any = any(sample.evaluations for sample in outcome.samples)
    show(f"prob_win_or_tie{note} of each sample:\n" if asked_any else "The samples:\n")
    show_table(_samples(outcome, answer.settings.prune_at))
    show(f"\n{_saving(asked.saving())}" if answer.settings.max_samples > 1 else "")
    fault = f": {outcome.trace.fault}" if outcome.trace.fault else ""
    show(f"Stopped: {outcome.stop_reason}{fault}. Seed {answer.seed}.")


def _confidence(answer: Answer) -> str:
    outcome = answer.outcome
    if outcome.confidence is None:
        return f"Confidence: none, {answer.no_confidence}."
    note = "" if outcome.calibrated else " (not calibrated)"
    return (
        f"Confidence {outcome.confidence:.3f}{note}: "
        "the probability that starting over would not do better."
    )


def _calibrated(outcome: Outcome) -> bool:
    return all(e.calibrated for sample in outcome.samples for e in sample.evaluations)


def _samples(outcome: Outcome, prune_at: tuple[int, ...]) -> Table:
    table = plain_table()
    for name in ("#", "temperature", "tokens", *(f"at {at}" for at in prune_at), "end"):
        table.add_column(name, justify="right")
    table.add_column("fate")
    for sample in outcome.samples:
        table.add_row(
            str(sample.index + 1),
            f"{sample.temperature:.3g}",
            str(sample.num_generated_tokens),
            *(_prob(sample, num_tokens=at) for at in prune_at),
            _prob(sample, num_tokens=None),
            _fate(outcome, sample),
            style="bold" if sample.index == outcome.best else None,
        )
    return table


def _prob(sample: Sample, *, num_tokens: int | None) -> str:
    """Show the evaluation at a checkpoint, or (None) of the finished response; "" for none."""
    for evaluation in sample.evaluations:
        at = None if evaluation.final else evaluation.num_tokens
        if at == num_tokens:
            return f"{evaluation.prob_win_or_tie:.3f}"
    return ""


def _fate(outcome: Outcome, sample: Sample) -> str:
    fate = outcome.fate(sample.index)
    return f"pruned at {len(sample.token_ids)}" if fate == "pruned" else fate


def _saving(saving: EstimatedSaving) -> str:
    return (
        f"Saved about {saving.share:.0%} of the tokens: {saving.tokens:,} with self-evaluations, "
        f"vs. {saving.full_tokens:,.0f} for {saving.max_samples} full samples "
        "at the mean length of the finished ones."
    )
