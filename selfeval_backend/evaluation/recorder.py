"""Make a recording: draw, evaluate at every checkpoint, and reward; go on where a run was killed.

Samples are drawn by the controller itself, under a policy that prunes nothing. Sample k of a prompt
has the seed that a live run of the same seed gives it, so that a replay repeats what a live run
would have done, up to the rounding of differently shaped matrix products.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from selfeval_backend.chat import Message
from selfeval_backend.controller import derive_seed, run
from selfeval_backend.engine.base import (
    Capabilities,
    Engine,
    LabelLogprobs,
    SampleStream,
    SamplingParams,
)
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    DatasetError,
    EngineError,
    NoFinishedSampleError,
)
from selfeval_backend.evaluation.harness import Progress
from selfeval_backend.evaluation.keeping import Log, free_path, judged, reuse
from selfeval_backend.evaluation.model_files import files_of
from selfeval_backend.evaluation.recordings import (
    MAX_ERROR_SHARE,
    UNTRAINED_QUESTION,
    PromptRecord,
    RecordingInfo,
    SampleRecord,
    check_errors,
    write_shard,
)
from selfeval_backend.evaluation.tasks import Task, TaskItem
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.policy import (
    Annealed,
    BatchSchedule,
    BestOfN,
    Checkpoint,
    Constant,
    TemperatureSchedule,
)
from selfeval_backend.settings import Settings
from selfeval_backend.types import Limits, Sample

__all__ = ["RecordingPlan", "SignalReader", "TokenSignals", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """What is recorded of each prompt.

    Raises:
        ConfigurationError: A value is out of range.
    """

    num_samples: int = 16
    """At one temperature, and as many annealed ones."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    annealed: bool = True
    """False: no annealed samples; adaptive sampling is then replayed at one temperature."""
    checkpoints: tuple[int, ...] = ()
    """Generated tokens at which running samples are evaluated, ascending."""
    max_tokens: int | None = None
    """Of one sample; None: what the context leaves."""
    untrained_question: bool = True
    """Whether finished samples at the one temperature are also asked `UNTRAINED_QUESTION`."""
    seed: int = 0
    shard_prompts: int = 25
    """Prompts that are drawn together and written together: what a killed run loses."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.shard_prompts < 1:
            raise ConfigurationError("shard_prompts", self.shard_prompts, "at least 1")
        self.settings()

    def settings(self) -> Settings:
        """Return what is drawn as settings, which check their ranges."""
        return Settings(
            max_samples=self.num_samples,
            adaptive=False,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            prune_at=self.checkpoints,
            keep_fraction=1.0,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )

    def schedules(self) -> tuple[TemperatureSchedule, ...]:
        """Return the temperatures of each kind of samples."""
        constant = Constant(self.temperature)
        return (constant, Annealed(self.temperature)) if self.annealed else (constant,)


class TokenSignals(Protocol):
    """What a model thought of each token of one sample (see `RecordingInfo`'s module)."""

    @property
    def token_confidences(self) -> tuple[float, ...]:
        """One a generated token."""
        ...

    @property
    def self_certainty(self) -> float:
        """Of the whole response."""
        ...


class SignalReader(Protocol):
    """Reads token signals off the model that was recorded."""

    def measure(
        self, prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]
    ) -> Sequence[TokenSignals]:
        """Return the signals of each response to its prompt, in order."""
        ...


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

    What it holds is used where it can be (see `selfeval_backend.evaluation.keeping`); afterwards
    it holds the task's prompts and no others.

    Args:
        model: Draws and evaluates.
        task: Its prompts, each with a name of its own.
        plan: What is drawn.
        folder: Gets one shard for every `shard_prompts` prompts.
        signals: None: methods that need token confidences cannot be replayed.
        max_error_share: Of all samples: once more of them have no reward, nothing more is drawn.
        progress: Told of every recorded prompt.
        log: Told of what is there and cannot be used as it is, one line each.

    Raises:
        ConfigurationError: The engine cannot evaluate at the plan's checkpoints, or two prompts
            have one name; before any token.
        DatasetError: The folder holds another recording, or too many rewards failed; names a row.
        EngineError: The engine failed; shards that were written stay.
    """
    info = _describe(model, task, plan, await asyncio.to_thread(files_of, model, folder))
    _check_names(task)
    prompt_ids = [
        model.chat.prompt_ids([Message(role="user", content=item.prompt)]) for item in task.items
    ]
    found = await reuse(folder, info, task.items, prompt_ids, model.chat.decode, log=log)
    places = [place for place in range(len(task.items)) if place not in found]
    recorder = _Recorder(model, plan, signals)
    num_samples = plan.num_samples * len(plan.schedules()) * len(task.items)
    for start in range(0, len(places), plan.shard_prompts):
        shard = places[start : start + plan.shard_prompts]
        prompts = await recorder.shard([(i, task.items[i], prompt_ids[i]) for i in shard])
        write_shard(free_path(folder, shard[0]), info, prompts)
        found.update(zip(shard, prompts, strict=True))
        check_errors(found.values(), max_error_share=max_error_share, num_samples=num_samples)
        if progress is not None:
            progress(f"sampling {task.name}", len(found), len(task.items))
    return info


def _describe(
    model: SelfEvaluatingModel, task: Task, plan: RecordingPlan, model_files: str | None
) -> RecordingInfo:
    if plan.checkpoints and not model.engine.capabilities.evaluates_mid_generation:
        raise ConfigurationError(
            "checkpoints",
            plan.checkpoints,
            f"none: the engine {model.engine.capabilities.name!r} cannot evaluate mid-generation",
        )
    scorers = {item.scorer for item in task.items}
    scorer = next(iter(scorers)) if len(scorers) == 1 else None
    return RecordingInfo(
        task=task.name,
        model=model.name,
        engine=model.engine.capabilities.name,
        seed=plan.seed,
        num_samples=plan.num_samples,
        temperature=plan.temperature,
        top_p=plan.top_p,
        top_k=plan.top_k,
        min_p=plan.min_p,
        repetition_penalty=plan.repetition_penalty,
        annealed=plan.annealed,
        checkpoints=plan.checkpoints,
        max_tokens=plan.max_tokens,
        num_question_tokens=len(model.evaluator.question_ids),
        selfeval=model.evaluator.config,
        untrained_question=plan.untrained_question,
        model_files=model_files,
        scorer=None if scorer is None else scorer.name,
        scorer_spec=None if scorer is None else scorer.spec,
        scorer_digest=None if scorer is None else scorer.digest,
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


class _Listener:
    """An engine that notes what the model says of its labels; it owns nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.heard: dict[tuple[int, ...], tuple[float, ...]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> SampleStream:
        return self._engine.stream(prompt_ids, replace(params, logprobs=True))

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        answer = await self._engine.label_logprobs(token_ids, label_ids)
        self.heard[token_ids] = answer.logprobs
        return answer

    async def aclose(self) -> None:
        """Do nothing: the engine is somebody else's."""


class _Recorder:
    """Draws samples, and turns them into records."""

    def __init__(
        self, model: SelfEvaluatingModel, plan: RecordingPlan, signals: SignalReader | None
    ) -> None:
        self._model = model
        self._plan = plan
        self._signals = signals
        self._question_ids = model.evaluator.question_ids
        self._untrained_ids = model.chat.follow_up_ids(UNTRAINED_QUESTION)
        self._yes_no = (model.chat.first_token_id("Yes."), model.chat.first_token_id("No."))

    async def shard(
        self, items: Sequence[tuple[int, TaskItem, tuple[int, ...]]]
    ) -> list[PromptRecord]:
        """Record prompts, all of them at once: (place, item, tokens) of each."""
        tasks = [asyncio.create_task(self._prompt(*each)) for each in items]
        try:
            prompts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._signals is not None:
            prompts = await asyncio.to_thread(_with_signals, prompts, self._signals)
        return prompts

    async def _prompt(
        self, place: int, item: TaskItem, prompt_ids: tuple[int, ...]
    ) -> PromptRecord:
        drawn = await asyncio.gather(
            *(self._draw(place, prompt_ids, s) for s in self._plan.schedules())
        )
        # The two kinds may share a sample (a schedule may end at the one temperature).
        samples = {(s.index, s.temperature): s for kind in drawn for s in kind}
        drawn_prompt = PromptRecord(
            prompt_id=item.prompt_id,
            prompt=item.prompt,
            prompt_ids=prompt_ids,
            samples=tuple(samples.values()),
        )
        return await judged(item, drawn_prompt, self._model.chat.decode)

    async def _draw(
        self, place: int, prompt_ids: tuple[int, ...], temperatures: TemperatureSchedule
    ) -> list[SampleRecord]:
        settings = self._plan.settings()
        listener = _Listener(self._model.engine)
        policy = BestOfN(
            batches=BatchSchedule.all_at_once(settings.max_samples),
            temperatures=temperatures,
            pruning=tuple(Checkpoint(at=at) for at in self._plan.checkpoints),
        )
        sampling = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            repetition_penalty=settings.repetition_penalty,
            max_tokens=self._max_tokens(prompt_ids, settings),
            seed=derive_seed(self._plan.seed, place),
            stop_token_ids=self._model.chat.end_token_ids,
        )
        try:
            outcome = await run(
                prompt_ids,
                engine=listener,
                evaluator=self._model.evaluator,
                policy=policy,
                limits=Limits(max_samples=settings.max_samples),
                sampling=sampling,
            )
        except NoFinishedSampleError as error:
            raise EngineError(f"prompt {place}: {error}") from error
        if outcome.trace.fault is not None:
            raise EngineError(f"prompt {place}: {outcome.trace.fault}")
        asked = self._plan.untrained_question and isinstance(temperatures, Constant)
        return list(
            await asyncio.gather(
                *(self._record(prompt_ids, s, listener, asked=asked) for s in outcome.samples)
            )
        )

    def _max_tokens(self, prompt_ids: tuple[int, ...], settings: Settings) -> int:
        """Return how long a sample may get and still be asked every question.

        Raises:
            ContextLengthError: As long as was asked for, or as the last checkpoint, does not fit.
        """
        longest = self._model.max_tokens(prompt_ids, settings)
        asked = self._untrained_ids if self._plan.untrained_question else ()
        context_length = self._model.engine.capabilities.context_length
        room = context_length - len(prompt_ids) - len(asked)
        needed = settings.max_tokens or 1 + max(self._plan.checkpoints, default=0)
        if room < needed:
            raise ContextLengthError(
                num_prompt_tokens=len(prompt_ids),
                num_reserved_tokens=len(asked) + needed,
                context_length=context_length,
            )
        return min(longest, room)

    async def _record(
        self, prompt_ids: tuple[int, ...], sample: Sample, listener: _Listener, *, asked: bool
    ) -> SampleRecord:
        assert sample.finish_reason is not None, "nothing was pruned, and nothing failed"
        untrained = None
        if asked:
            answer = await self._model.engine.label_logprobs(
                prompt_ids + sample.token_ids + self._untrained_ids, self._yes_no
            )
            untrained = (answer.logprobs[0], answer.logprobs[1])
        said = {}
        for evaluation in sample.evaluations:
            place = evaluation.num_tokens
            ids = prompt_ids + sample.token_ids[:place] + self._question_ids
            said[place] = (listener.heard[ids][0], listener.heard[ids][1])
        return SampleRecord(
            index=sample.index,
            temperature=sample.temperature,
            seed=sample.seed,
            token_ids=sample.token_ids,
            num_generated_tokens=sample.num_generated_tokens,
            finish_reason=sample.finish_reason,
            sum_logprob=sample.sum_logprob,
            label_logprobs=said,
            reward=math.nan,
            answer=None,
            untrained_logprobs=untrained,
        )


def _with_signals(prompts: Sequence[PromptRecord], reader: SignalReader) -> list[PromptRecord]:
    flat = [(prompt, sample) for prompt in prompts for sample in prompt.samples]
    found = iter(reader.measure([p.prompt_ids for p, _ in flat], [s.token_ids for _, s in flat]))
    return [
        replace(
            prompt,
            samples=tuple(
                replace(
                    sample,
                    token_confidences=signals.token_confidences,
                    self_certainty=signals.self_certainty,
                )
                for sample, signals in zip(prompt.samples, found, strict=False)
            ),
        )
        for prompt in prompts
    ]
