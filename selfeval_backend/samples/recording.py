"""A task becomes a recording: what its folder holds is used, what is missing is drawn.

A sample is used where it is of the same model and settings, and its prompt renders to the same
tokens, wherever that prompt stands now and whatever it is called. A reward is used where scorer and
reference are the same ones; else it is made anew from the sample. Nothing that was drawn or scored
is ever removed: what a task does not ask for any more stays, and is found when it is asked for
again. The listing is written last, so that a run that is killed leaves the recording as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfeval_backend.controller import derive_seed
from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.provenance import files_of
from selfeval_backend.samples.recorder import (
    Draw,
    Progress,
    Recorder,
    RecordingPlan,
    SignalReader,
)
from selfeval_backend.samples.records import PromptRecord, RecordingInfo, key_of
from selfeval_backend.samples.rewards import MAX_ERROR_SHARE, Rewards
from selfeval_backend.samples.shards import chunks_of
from selfeval_backend.samples.store import (
    Listing,
    check_failures,
    next_number,
    read_info,
    read_listing,
    read_rewards,
    read_samples,
    refuse_others,
    reward_files,
    sample_files,
    write_listing,
    write_rewards,
    write_samples,
)
from selfeval_backend.samples.tasks import Task, TaskItem

__all__ = ["Log", "record"]

Log = Callable[[str], None]

_NAMED = 3
"""Prompts that a line names before it says how many more there are."""
_AT_ONCE = 25
"""Prompts whose rewards are made at once."""


async def record(
    model: SelfEvaluatingModel,
    task: Task,
    plan: RecordingPlan,
    folder: Path,
    *,
    signals: SignalReader | None = None,
    max_error_share: float = MAX_ERROR_SHARE,
    progress: Progress | None = None,
    log: Log = lambda _: None,
) -> RecordingInfo:
    """Record every prompt of a task that the folder does not hold yet.

    Afterwards its recording is of the task's prompts and no others.

    Args:
        model: Draws and evaluates.
        task: Its prompts, each with a name of its own.
        plan: What is drawn.
        folder: Gets one file of samples, and one of rewards, for every `shard_prompts` prompts.
        signals: None: methods that need token confidences cannot be replayed.
        max_error_share: Of all samples: once more of them have no reward, nothing more is drawn.
        progress: Told of every recorded prompt.
        log: Told of what is there and cannot be used as it is, one line each.

    Raises:
        ConfigurationError: The engine cannot evaluate at the plan's checkpoints, or two prompts
            have one name; before any token.
        DatasetError: The folder holds another recording, or too many rewards failed; names a row.
        EngineError: The engine failed; files that were written stay.
    """
    info = _describe(model, task, plan, await asyncio.to_thread(files_of, model, folder))
    _check_names(task)
    kept = _Kept.of(folder, info, task, model, log)
    kept.say()
    for places in chunks_of(sorted(kept.records), _AT_ONCE):
        await kept.score(places)
    kept.list()
    missing = [place for place in range(len(task.items)) if place not in kept.records]
    recorder = Recorder(
        engine=model.engine, chat=model.chat, evaluator=model.evaluator, signals=signals
    )
    num_samples = plan.num_samples * len(plan.schedules()) * len(task.items)
    for places in chunks_of(missing, plan.shard_prompts):
        draws = [_draw(task.items[place], plan, place) for place in places]
        drawn = await recorder.draw(draws)
        write_samples(folder, next_number(sample_files(folder)), info, drawn)
        kept.records.update(zip(places, drawn, strict=True))
        await kept.score(places)
        kept.list()
        check_failures(
            list(kept.records.values()), max_error_share=max_error_share, num_samples=num_samples
        )
        if progress is not None:
            progress(f"sampling {task.name}", len(kept.records), len(task.items))
    return info


def _draw(item: TaskItem, plan: RecordingPlan, place: int) -> Draw:
    """A prompt has the seed of its place, as in a live run."""
    prompt = Prompt(prompt_id=item.prompt_id, messages=item.messages)
    return Draw(prompt=prompt, seed=derive_seed(plan.seed, place), plan=plan)


def _describe(
    model: SelfEvaluatingModel, task: Task, plan: RecordingPlan, model_files: str | None
) -> RecordingInfo:
    capabilities = model.engine.capabilities
    if plan.checkpoints and not capabilities.evaluates_mid_generation:
        raise ConfigurationError(
            "checkpoints",
            plan.checkpoints,
            f"none: the engine {capabilities.name!r} cannot evaluate mid-generation",
        )
    scorers = {item.scorer for item in task.items}
    return plan.info(
        task=task.name,
        model=model.name,
        engine=capabilities.name,
        evaluator=model.evaluator,
        model_files=model_files,
        scorer=next(iter(scorers)) if len(scorers) == 1 else None,
    )


def _check_names(task: Task) -> None:
    names = [item.prompt_id for item in task.items]
    if not names:
        raise DatasetError(f"the task {task.name} has no prompts")
    for name in names:
        if not name:
            raise DatasetError(f"a prompt of the task {task.name} has no prompt_id")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"two prompts of the task {task.name} are called {twice!r}")


@dataclass(slots=True, kw_only=True)
class _Kept:
    """What a folder holds of a task."""

    folder: Path
    info: RecordingInfo
    items: Sequence[TaskItem]
    before: Listing | None
    """Of the recording that was there."""
    log: Log
    rewards: dict[tuple[str, str | None], Rewards]
    """By the key of the samples, and what they are made with; the last ones count."""
    records: dict[int, PromptRecord] = field(default_factory=dict)
    """By the place of the prompt."""

    @classmethod
    def of(
        cls, folder: Path, info: RecordingInfo, task: Task, model: SelfEvaluatingModel, log: Log
    ) -> _Kept:
        """Read a folder.

        Raises:
            DatasetError: What is there is of another model or of other settings; names what
                differs.
        """
        before = read_listing(folder)
        if before is not None:
            refuse_others(folder, before.info, info)
        for path in sample_files(folder):
            refuse_others(path, read_info(path), info)
        found = [record for path in sample_files(folder) for record in read_samples(path)]
        rewards = {
            (each.key, each.scored_by): each
            for path in reward_files(folder)
            for each in read_rewards(path)
        }
        kept = cls(
            folder=folder, info=info, items=task.items, before=before, log=log, rewards=rewards
        )
        kept._match(found, [model.chat.prompt_ids(item.messages) for item in task.items])
        return kept

    def _match(self, found: Sequence[PromptRecord], prompt_ids: Sequence[tuple[int, ...]]) -> None:
        """Find the samples of each prompt: by tokens and name, else by tokens alone."""
        names = self._names_before()
        by_tokens: dict[tuple[int, ...], list[PromptRecord]] = {}
        # Those of the recording that was there come first.
        for record in sorted(found, key=lambda record: record.key not in names):
            named = record.renamed(names.get(record.key, record.prompt_id))
            by_tokens.setdefault(record.prompt_ids, []).append(named)
        for by_name in (True, False):
            for place, item in enumerate(self.items):
                candidates = by_tokens.get(prompt_ids[place], [])
                name = item.prompt_id if by_name else None
                if place not in self.records:
                    self._claim(place, candidates, name)
        by_key = {record.key: record for record in found}
        for place in range(len(self.items)):
            key = key_of(prompt_ids[place], derive_seed(self.info.seed, place))
            if place not in self.records and key in by_key:
                self.records[place] = by_key[key]  # one text twice: the very samples it would get

    def _claim(self, place: int, candidates: list[PromptRecord], name: str | None) -> None:
        for number, record in enumerate(candidates):
            if name in (None, record.prompt_id):
                self.records[place] = candidates.pop(number)
                return

    def _names_before(self) -> Mapping[str, str]:
        listed = () if self.before is None else self.before.prompts
        return {each.key: each.prompt_id for each in listed}

    def say(self) -> None:
        """Tell what is not used as it was."""
        if self.before is None:
            return
        if self.before.info.model_files is None and self.info.model_files is not None:
            self.log(
                f"the samples in {self.folder} are of a time when the model's files were not "
                "noted: they are taken to be of this model"
            )
        for reason, names in self._reasons(self.before.info).items():
            self.log(f"rewards of {_listed(names)} are made anew: {reason}")
        self._say_what_is_left_over()

    def _say_what_is_left_over(self) -> None:
        before = self._names_before()
        used = {record.key for record in self.records.values()}
        left = [name for key, name in before.items() if key not in used]
        names = {item.prompt_id for item in self.items}
        drawn = {item.prompt_id for i, item in enumerate(self.items) if i not in self.records}
        if changed := [name for name in left if name in drawn]:
            self.log(f"drawn anew: {_listed(changed)}, as the text or the chat template changed")
        if gone := [name for name in left if name not in names]:
            self.log(f"no part of this task as it is now: {_listed(gone)}")
        if left:
            self.log(f"old samples of {_listed(left)} stay in {self.folder}, and are not used")
        back = [r.prompt_id for r in self.records.values() if r.key not in before]
        if back:
            self.log(f"samples of {_listed(back)} are taken back from what {self.folder} kept")

    def _reasons(self, before: RecordingInfo) -> Mapping[str, list[str]]:
        """Return why rewards are made anew, and of which prompts."""
        reasons: dict[str, list[str]] = {}
        scorers = {key for key, _ in self.rewards}
        for place, record in sorted(self.records.items()):
            item = self.items[place]
            if self._usable(record, item) is not None:
                continue
            if item.scored_by is None:
                reason = "it is not known what makes them"
            elif (record.key, item.scored_by) in self.rewards:
                reason = "some had failed"
            elif record.key not in scorers:
                reason = "a run was stopped before it had made them"
            elif before.scorer != self.info.scorer:
                was = before.scorer or "an unknown scorer"
                reason = f"they were of {was}, and are of {self.info.scorer}"
            else:
                reason = "what they are compared with, or their scorer's code, changed"
            reasons.setdefault(reason, []).append(item.prompt_id)
        return reasons

    def _usable(self, record: PromptRecord, item: TaskItem) -> Rewards | None:
        """Return the rewards that are there and are those of the scorer now, all of them."""
        found = None if item.scored_by is None else self.rewards.get((record.key, item.scored_by))
        return None if found is None or any(found.errors) else found

    async def score(self, places: Sequence[int]) -> None:
        """Give prompts their names and rewards now, and write those that are made anew."""
        made = await asyncio.gather(*(self._score(place) for place in places))
        fresh = [self.records[place].rewards() for place in made if place is not None]
        if fresh:
            write_rewards(self.folder, next_number(reward_files(self.folder)), fresh)

    async def _score(self, place: int) -> int | None:
        """Return the place if its rewards were made anew."""
        item = self.items[place]
        record = self.records[place].renamed(item.prompt_id)
        rewards = self._usable(record, item)
        if rewards is not None:
            self.records[place] = record.with_rewards(rewards)
            return None
        self.records[place] = await asyncio.to_thread(_judged, item, record)
        return place

    def list(self) -> None:
        """Say which prompts are the recording now."""
        prompts = [record for _, record in sorted(self.records.items())]
        if prompts:
            write_listing(self.folder, self.info, prompts)


def _judged(item: TaskItem, prompt: PromptRecord) -> PromptRecord:
    """Return a prompt's samples with rewards and answers made anew; blocks."""
    scored = [item.judge(sample.text) for sample in prompt.samples]
    rewards = Rewards(
        key=prompt.key,
        scored_by=item.scored_by,
        reference_characters=None if item.reference is None else len(item.reference),
        rewards=tuple(s.reward for s in scored),
        errors=tuple(s.error for s in scored),
        answers=tuple(s.answer for s in scored),
    )
    return prompt.with_rewards(rewards)


def _listed(names: Sequence[str]) -> str:
    """Name prompts, a few of them."""
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} {'prompt' if len(names) == 1 else 'prompts'} ({shown}{more})"
