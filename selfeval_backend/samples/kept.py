"""Samples of another run, for prompts that are to be drawn: what is there is not paid for twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.provenance import LOCAL_ENGINES
from selfeval_backend.samples.recorder import Draw
from selfeval_backend.samples.records import PromptRecord, RecordingInfo, SampleRecord, key_of
from selfeval_backend.samples.store import read_info, read_samples, sample_files
from selfeval_backend.settings import SAMPLING_NAMES

__all__ = ["KeptSamples"]


class KeptSamples:
    """The samples of a folder that `aic eval` or `aic train` filled, by their messages.

    Args:
        folder: With files of samples.
        wanted: What is to be drawn.

    Raises:
        DatasetError: There are no samples, or they are of another model, or were drawn in another
            way; names what differs, and what to set.
    """

    def __init__(self, folder: Path, wanted: RecordingInfo) -> None:
        files = sample_files(folder)
        if not files:
            raise DatasetError(f"{folder}: no samples there (samples-*.parquet)")
        for path in files:
            _refuse(path, read_info(path), wanted)
        found = (record for path in files for record in read_samples(path) if record.samples)
        self._records = {record.messages: record for record in found}

    def record(self, draw: Draw) -> PromptRecord | None:
        """Return samples as if they had been drawn; None: there are none, or fewer.

        A sample that was allowed to be longer is cut: up to there it is the same.
        """
        kept, plan, prompt = self._records.get(draw.prompt.messages), draw.plan, draw.prompt
        if kept is None or len(kept.at(plan.temperature).samples) < plan.num_samples:
            return None
        samples = kept.at(plan.temperature).samples[: plan.num_samples]
        return PromptRecord(
            key=key_of(kept.prompt_ids, draw.seed),
            prompt_id=prompt.prompt_id,
            messages=prompt.messages,
            prompt_ids=kept.prompt_ids,
            samples=tuple(_cut(sample, plan.max_tokens) for sample in samples),
            split=prompt.split,
            reference=prompt.answer,
        )


def _refuse(path: Path, was: RecordingInfo, wanted: RecordingInfo) -> None:
    for name in (*SAMPLING_NAMES, "max_tokens"):
        before, after = getattr(was, name), getattr(wanted, name)
        if before == after or (name == "max_tokens" and (before is None or before >= after)):
            continue
        raise DatasetError(
            f"{path}: samples were drawn with {name} {before}, and {after} is asked for. "
            f"Set rollouts.{name} to {before}, or leave rollouts.kept out."
        )
    known = was.engine in LOCAL_ENGINES and was.model_files is not None
    fact = "model_files" if known else "model"
    if getattr(was, fact) != getattr(wanted, fact):
        raise DatasetError(
            f"{path}: samples are of {was.model}, whose weights, config, tokenizer or chat "
            f"template are not those of {wanted.model}. Leave rollouts.kept out: they are drawn."
        )


def _cut(sample: SampleRecord, max_tokens: int | None) -> SampleRecord:
    """Return what a sample is without what was asked or measured, and of `max_tokens` at most."""
    num_tokens = sample.num_generated_tokens
    is_whole = max_tokens is None or num_tokens <= max_tokens
    return replace(
        sample,
        token_ids=sample.token_ids[:max_tokens],
        num_generated_tokens=num_tokens if max_tokens is None else min(num_tokens, max_tokens),
        finish_reason=sample.finish_reason if is_whole else "length",
        sum_logprob=sample.sum_logprob if is_whole else None,
        label_logprobs={},
        token_confidences=None,
        self_certainty=None,
        untrained_logprobs=None,
    )
