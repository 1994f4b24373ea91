"""Samples of another run, for prompts that are to be drawn: what is there is not paid for twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.provenance import LOCAL_ENGINES
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.records import PromptRecord, RecordingInfo, SampleRecord
from selfeval_backend.samples.store import read_info, read_samples, sample_files

__all__ = ["KeptSamples"]


class KeptSamples:
    """Samples of a folder, by the tokens of their prompts.

    Args:
        found: Prompts with their samples.
        info: What those share.
    """

    def __init__(self, found: Sequence[PromptRecord], info: RecordingInfo) -> None:
        self._info = info
        self._by_tokens: Mapping[tuple[int, ...], PromptRecord] = {
            record.prompt_ids: record for record in reversed(found)
        }

    @classmethod
    def load(cls, folder: Path, wanted: RecordingInfo) -> KeptSamples:
        """Read a folder that `aic eval` or `aic train` filled.

        Args:
            folder: With files of samples.
            wanted: What is to be drawn.

        Raises:
            DatasetError: There are no samples, or they are of another model, or were drawn in
                another way; names what differs, and what to set.
        """
        files = sample_files(folder)
        if not files:
            raise DatasetError(f"{folder}: no samples there (samples-*.parquet)")
        for path in files:
            _refuse(path, read_info(path), wanted)
        found = [record for path in files for record in read_samples(path)]
        return cls(found, read_info(files[0]))

    def samples(
        self, prompt_ids: tuple[int, ...], plan: RecordingPlan
    ) -> tuple[SampleRecord, ...] | None:
        """Return as many samples of a prompt as a plan draws; None where there are fewer.

        A sample that was allowed to be longer is cut: up to there it is the same.
        """
        record = self._by_tokens.get(prompt_ids)
        if record is None or plan.temperature != self._info.temperature:
            return None
        found = record.at(plan.temperature).samples[: plan.num_samples]
        if len(found) < plan.num_samples:
            return None
        return tuple(_cut(sample, plan.max_tokens) for sample in found)


def _refuse(path: Path, was: RecordingInfo, wanted: RecordingInfo) -> None:
    for name in ("temperature", "top_p"):
        before, after = getattr(was, name), getattr(wanted, name)
        if before != after:
            raise DatasetError(
                f"{path}: samples were drawn with {name} {before}, and {after} is asked for. "
                f"Set rollouts.{name} to {before}, or leave rollouts.kept out."
            )
    if was.max_tokens is not None and was.max_tokens < (wanted.max_tokens or 0):
        raise DatasetError(
            f"{path}: samples had up to max_tokens {was.max_tokens}, and {wanted.max_tokens} is "
            f"asked for. Set rollouts.max_tokens to {was.max_tokens}, or leave rollouts.kept out."
        )
    known = was.engine in LOCAL_ENGINES and was.model_files is not None
    if (known and was.model_files != wanted.model_files) or (
        not known and was.model != wanted.model
    ):
        raise DatasetError(
            f"{path}: samples are of {was.model}, whose weights, config, tokenizer or chat "
            f"template are not those of {wanted.model}. Leave rollouts.kept out: they are drawn."
        )


def _cut(sample: SampleRecord, max_tokens: int | None) -> SampleRecord:
    """Return a sample as it is, with what is of the whole alone left out where it is cut."""
    plain = replace(
        sample,
        label_logprobs={},
        token_confidences=None,
        self_certainty=None,
        untrained_logprobs=None,
    )
    if max_tokens is None or sample.num_generated_tokens <= max_tokens:
        return plain
    return replace(
        plain,
        token_ids=sample.token_ids[:max_tokens],
        num_generated_tokens=max_tokens,
        finish_reason="length",
        sum_logprob=None,
    )
