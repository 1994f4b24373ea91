"""What of a recording a new run can use: samples that are still of its prompts, and their rewards.

A sample is kept where it is of the same model and settings, and its prompt renders to the same
tokens, wherever that prompt stands now and whatever it is called. A reward is kept where scorer and
reference are the same ones; else it is made anew from the sample. What is of no prompt any more is
set aside in a folder of its own, and taken back when its prompt comes back.

Files change one by one, each at once, and what is written comes before what is removed: a run that
is killed in between loses nothing, and the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.recordings import (
    PromptRecord,
    RecordingInfo,
    SampleRecord,
    Shard,
    read_shards,
    write_shard,
)
from selfeval_backend.evaluation.tasks import TaskItem
from selfeval_backend.hashing import digest_of

__all__ = ["SET_ASIDE", "Log", "free_path", "judged", "reuse"]

Log = Callable[[str], None]
Decode = Callable[[Sequence[int]], str]

SET_ASIDE = "set-aside"
"""Folder within a recording's: samples of prompts that the last run did not have."""

_NAMED = 3
"""Prompts that a line names before it says how many more there are."""
_AT_ONCE = 25
"""Prompts whose rewards are made at once."""


async def judged(item: TaskItem, prompt: PromptRecord, decode: Decode) -> PromptRecord:
    """Return a prompt's samples with rewards and answers made anew."""
    texts = [decode(sample.token_ids).strip() for sample in prompt.samples]
    samples = await asyncio.to_thread(_judge, item, prompt.samples, texts)
    return replace(
        prompt,
        samples=samples,
        reference_characters=None if item.reference is None else len(item.reference),
        scored_by=item.scored_by,
    )


def _judge(
    item: TaskItem, samples: Sequence[SampleRecord], texts: Sequence[str]
) -> tuple[SampleRecord, ...]:
    """Score responses; blocks."""
    found = []
    for sample, text in zip(samples, texts, strict=True):
        scored = item.judge(text)
        reward = float("nan") if scored.reward is None else scored.reward
        found.append(
            replace(
                sample,
                reward=reward,
                error=scored.error,
                answer=scored.answer,
                response_characters=len(text),
            )
        )
    return tuple(found)


def free_path(folder: Path, place: int) -> Path:
    """Return where a shard whose first prompt has a place can be written without loss."""
    path, number = folder / f"rollouts-{place:06d}.parquet", 1
    while path.exists():
        path, number = folder / f"rollouts-{place:06d}-{number}.parquet", number + 1
    return path


async def reuse(
    folder: Path,
    info: RecordingInfo,
    items: Sequence[TaskItem],
    prompt_ids: Sequence[tuple[int, ...]],
    decode: Decode,
    *,
    log: Log,
) -> dict[int, PromptRecord]:
    """Bring a folder to what a task is now, without drawing anything; say what has changed.

    Args:
        folder: Of a recording, or of none yet.
        info: Of the recording that is to be there.
        items: The task's prompts.
        prompt_ids: Their tokens, in the same order.
        decode: Gives a response's text.
        log: Told what is not used as it was, one line each.

    Returns:
        What is there already, by the place of its prompt.

    Raises:
        DatasetError: What is there is of another model or of other settings; names what differs.
    """
    kept = _Kept(folder=folder, info=info, items=items, prompt_ids=prompt_ids, log=log)
    kept.match()
    kept.say()
    await kept.rewrite(decode)
    return kept.records


@dataclass(slots=True, kw_only=True)
class _Kept:
    folder: Path
    info: RecordingInfo
    items: Sequence[TaskItem]
    prompt_ids: Sequence[tuple[int, ...]]
    log: Log
    shards: list[Shard] = field(default_factory=list)
    aside: list[Shard] = field(default_factory=list)
    place_of: dict[int, int] = field(default_factory=dict)
    """The place of the prompt that a record is used for, by the record's identity."""
    records: dict[int, PromptRecord] = field(default_factory=dict)

    def match(self) -> None:
        """Find the record of each prompt: by tokens and name, else by tokens alone."""
        self.shards = read_shards(self.folder)
        self.aside = read_shards(self.folder / SET_ASIDE)
        for shard in (*self.shards, *self.aside):
            _refuse_others(shard, self.info)
        by_tokens: dict[tuple[int, ...], list[PromptRecord]] = {}
        for shard in (*self.shards, *self.aside):
            for record in shard.prompts:
                by_tokens.setdefault(record.prompt_ids, []).append(record)
        for by_name in (True, False):
            for place, item in enumerate(self.items):
                candidates = by_tokens.get(self.prompt_ids[place], [])
                if place not in self.records:
                    self._claim(place, candidates, item.prompt_id if by_name else None)

    def _claim(self, place: int, candidates: list[PromptRecord], name: str | None) -> None:
        for number, record in enumerate(candidates):
            if name in (None, record.prompt_id):
                self.records[place] = candidates.pop(number)
                self.place_of[id(record)] = place
                return

    def say(self) -> None:
        """Tell what is not used as it was."""
        before = next((shard.info for shard in self.shards), None)
        if before is not None and before.model_files is None and self.info.model_files is not None:
            self.log(
                f"the samples in {self.folder} are of a time when the model's files were not "
                "noted: they are taken to be of this model"
            )
        for reason, names in self._reasons(before).items():
            self.log(f"rewards of {_listed(names)} are made anew: {reason}")
        self._say_what_is_left_over()
        back = [r.prompt_id for s in self.aside for r in s.prompts if id(r) in self.place_of]
        if back:
            self.log(f"samples of {_listed(back)} are taken back from {self.folder / SET_ASIDE}")

    def _say_what_is_left_over(self) -> None:
        left = [r.prompt_id for s in self.shards for r in s.prompts if id(r) not in self.place_of]
        names = {item.prompt_id for item in self.items}
        drawn = {item.prompt_id for i, item in enumerate(self.items) if i not in self.records}
        if changed := [name for name in left if name in drawn]:
            self.log(f"drawn anew: {_listed(changed)}, as the text or the chat template changed")
        if gone := [name for name in left if name not in names]:
            self.log(f"no part of this task as it is now: {_listed(gone)}")
        if left:
            self.log(f"old samples of {_listed(left)} are set aside in {self.folder / SET_ASIDE}")

    def _reasons(self, before: RecordingInfo | None) -> Mapping[str, list[str]]:
        """Return why rewards are made anew, and of which prompts."""
        reasons: dict[str, list[str]] = {}
        was = None if before is None else before.scorer
        for place, record in sorted(self.records.items()):
            item = self.items[place]
            if not _is_stale(record, item):
                continue
            if item.scored_by is None:
                reason = "it is not known what makes them"
            elif record.scored_by == item.scored_by:
                reason = "some had failed"
            elif was != self.info.scorer or record.scored_by is None:
                reason = f"they were of {was or 'an unknown scorer'}, and are of {self.info.scorer}"
            else:
                reason = "what they are compared with, or their scorer's code, changed"
            reasons.setdefault(reason, []).append(item.prompt_id)
        return reasons

    async def rewrite(self, decode: Decode) -> None:
        """Write every file anew whose content changes, and set aside what is left over."""
        for shard in self.shards:
            used = [r for r in shard.prompts if id(r) in self.place_of]
            stale = [r for r in shard.prompts if id(r) not in self.place_of]
            fresh = await self._brought_up(used, decode)
            if stale:
                self._set_aside(stale)
            if not fresh:
                shard.path.unlink()
            elif fresh != list(shard.prompts) or shard.info != self.info:
                write_shard(shard.path, self.info, fresh)
        for shard in self.aside:
            back = [r for r in shard.prompts if id(r) in self.place_of]
            if not back:
                continue
            first = min(self.place_of[id(r)] for r in back)
            fresh = await self._brought_up(back, decode)
            write_shard(free_path(self.folder, first), self.info, fresh)
            left = [r for r in shard.prompts if id(r) not in self.place_of]
            if left:
                write_shard(shard.path, shard.info, left)
            else:
                shard.path.unlink()

    async def _brought_up(
        self, records: Sequence[PromptRecord], decode: Decode
    ) -> list[PromptRecord]:
        """Return records under their prompts' names now, with rewards of the scorer now."""
        fresh: list[PromptRecord] = []
        for chunk in _chunks(records):
            fresh += await asyncio.gather(*(self._fresh(record, decode) for record in chunk))
        return fresh

    async def _fresh(self, record: PromptRecord, decode: Decode) -> PromptRecord:
        place = self.place_of[id(record)]
        item = self.items[place]
        found = replace(record, prompt_id=item.prompt_id, prompt=item.prompt)
        if _is_stale(record, item):
            found = await judged(item, found, decode)
        self.records[place] = found
        return found

    def _set_aside(self, records: Sequence[PromptRecord]) -> None:
        key = digest_of([[r.prompt_id, r.prompt_ids, r.scored_by] for r in records])
        path = self.folder / SET_ASIDE / f"rollouts-{key[:16]}.parquet"
        write_shard(path, self.info, records)


def _is_stale(record: PromptRecord, item: TaskItem) -> bool:
    return (
        item.scored_by is None
        or record.scored_by != item.scored_by
        or any(sample.error is not None for sample in record.samples)
    )


def _chunks(records: Sequence[PromptRecord]) -> Iterator[Sequence[PromptRecord]]:
    for start in range(0, len(records), _AT_ONCE):
        yield records[start : start + _AT_ONCE]


def _listed(names: Sequence[str]) -> str:
    """Name prompts, a few of them."""
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} {'prompt' if len(names) == 1 else 'prompts'} ({shown}{more})"


_OF_REWARDS = frozenset({"version", "scorer", "scorer_spec", "scorer_digest"})
"""Fields that decide no sample."""


def _refuse_others(shard: Shard, info: RecordingInfo) -> None:
    """Refuse samples of another model, or of other settings.

    Calibration, policy and provenance of the self-evaluation are read when samples are looked at:
    they decide none.
    """
    for name in RecordingInfo.model_fields:
        was, now = getattr(shard.info, name), getattr(info, name)
        if name in _OF_REWARDS or was == now:
            continue
        shown = f"{name} ({was!r} and {now!r})"
        if name == "selfeval":
            asked = [(c.question, c.win_or_tie_label, c.loss_label) for c in (was, now)]
            if asked[0] == asked[1]:
                continue
            shown = "the question or the labels of the self-evaluation"
        if name == "model_files":
            if was is None:
                continue  # from before it was noted: that is said
            shown = "model_files: weights, config, tokenizer or chat template changed"
        raise DatasetError(
            f"{shard.path} and what was asked for differ in {shown}: one recording is of one "
            "model, task and setting. Take another folder (--out), or remove this one."
        )
