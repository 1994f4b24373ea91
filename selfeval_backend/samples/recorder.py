"""From prompts to samples: drawn by the controller itself, and kept.

Samples are drawn under a policy that prunes nothing. Sample k of a prompt has the seed that a live
run of the same seed gives it, so that a replay repeats what a live run would have done, up to the
rounding of differently shaped matrix products.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from selfeval_backend.chat import Chat
from selfeval_backend.controller import run
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
    EngineError,
    NoFinishedSampleError,
)
from selfeval_backend.policy import (
    Annealed,
    BatchSchedule,
    BestOfN,
    Checkpoint,
    Constant,
    TemperatureSchedule,
)
from selfeval_backend.samples.prompts import Prompt
from selfeval_backend.samples.records import (
    UNTRAINED_QUESTION,
    PromptRecord,
    RecordingInfo,
    SampleRecord,
    key_of,
)
from selfeval_backend.scorers import ScorerIdentity
from selfeval_backend.selfeval import SelfEvaluator
from selfeval_backend.settings import Settings
from selfeval_backend.types import Limits, Sample

__all__ = [
    "Draw",
    "Progress",
    "Recorder",
    "RecordingPlan",
    "SignalReader",
    "TokenSignals",
]

Progress = Callable[[str, int, int], None]
"""Told of what is done, how many of it are, and of how many."""

_CONCURRENT_SAMPLES = 1024
"""Samples that an engine is given at once."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """What is drawn of a prompt.

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
    evaluate: bool = True
    """False: samples are not evaluated."""
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
        Settings(
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

    def info(
        self,
        *,
        task: str,
        model: str,
        engine: str,
        evaluator: SelfEvaluator,
        model_files: str | None,
        scorer: ScorerIdentity | None = None,
    ) -> RecordingInfo:
        """Return what samples that are drawn this way share."""
        return RecordingInfo(
            task=task,
            model=model,
            engine=engine,
            seed=self.seed,
            num_samples=self.num_samples,
            temperature=self.temperature,
            annealed=self.annealed,
            checkpoints=self.checkpoints,
            max_tokens=self.max_tokens,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            num_question_tokens=len(evaluator.question_ids),
            selfeval=evaluator.config,
            untrained_question=self.untrained_question,
            model_files=model_files,
            scorer=None if scorer is None else scorer.name,
            scorer_spec=None if scorer is None else scorer.spec,
            scorer_digest=None if scorer is None else scorer.digest,
        )

    def schedules(self) -> tuple[TemperatureSchedule, ...]:
        """Return the temperatures of each kind of samples."""
        constant = Constant(self.temperature)
        return (constant, Annealed(self.temperature)) if self.annealed else (constant,)

    def policy(self, temperatures: TemperatureSchedule) -> BestOfN:
        """Return what draws one kind of samples, and evaluates all of them everywhere."""
        return BestOfN(
            batches=BatchSchedule.all_at_once(self.num_samples),
            temperatures=temperatures,
            pruning=tuple(Checkpoint(at=at) for at in self.checkpoints),
            evaluate=self.evaluate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One prompt, and what is drawn of it."""

    prompt: Prompt
    seed: int
    """Of the prompt; those of its samples are derived from it."""
    plan: RecordingPlan


class TokenSignals(Protocol):
    """What a model thought of each token of one sample (see `SampleRecord`)."""

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


class Recorder:
    """Draws samples of a model, and turns them into records.

    Args:
        engine: Draws and evaluates.
        chat: The model's tokenizer and chat template.
        evaluator: Its self-evaluation.
        signals: None: methods that need token confidences cannot be replayed.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        chat: Chat,
        evaluator: SelfEvaluator,
        signals: SignalReader | None = None,
    ) -> None:
        self.engine = engine
        """Somebody else's to close."""
        self._chat, self._evaluator = chat, evaluator
        self._signals = signals
        self._untrained_ids = chat.follow_up_ids(UNTRAINED_QUESTION)
        self._yes_no = (chat.first_token_id("Yes."), chat.first_token_id("No."))

    async def draw(
        self,
        draws: Sequence[Draw],
        *,
        keep_refused: bool = False,
        on_prompt: Callable[[], None] = lambda: None,
    ) -> list[PromptRecord]:
        """Draw the samples of some prompts together.

        Args:
            draws: What is drawn.
            keep_refused: Whether a prompt that cannot be rendered, or does not fit into the
                context, becomes a record with its reason instead of an error.
            on_prompt: Called for every prompt that is done.

        Returns:
            One record a prompt, in order, without rewards.

        Raises:
            ConfigurationError: A prompt cannot be rendered.
            ContextLengthError: A prompt leaves no room for its samples.
            EngineError: The engine failed; the others are stopped.
        """
        most = max((len(d.plan.schedules()) * d.plan.num_samples for d in draws), default=1)
        room = asyncio.Semaphore(max(1, _CONCURRENT_SAMPLES // most))

        async def one(draw: Draw) -> PromptRecord:
            async with room:
                record = await self._prompt(draw, keep_refused=keep_refused)
            on_prompt()
            return record

        prompts = await _all(one(draw) for draw in draws)
        if self._signals is not None:
            return await asyncio.to_thread(_with_signals, prompts, self._signals)
        return prompts

    async def _prompt(self, draw: Draw, *, keep_refused: bool) -> PromptRecord:
        prompt_ids: tuple[int, ...] = ()
        samples: tuple[SampleRecord, ...] = ()
        refused: str | None = None
        try:
            prompt_ids = self._chat.prompt_ids(draw.prompt.messages)
            max_tokens = self._max_tokens(prompt_ids, draw.plan)
        except ConfigurationError as error:
            if not keep_refused:
                raise
            refused = str(error)
        else:
            samples = await self._samples(draw, prompt_ids, max_tokens)
        return PromptRecord(
            key=key_of(prompt_ids, draw.seed),
            prompt_id=draw.prompt.prompt_id,
            messages=draw.prompt.messages,
            prompt_ids=prompt_ids,
            samples=samples,
            split=draw.prompt.split,
            reference=draw.prompt.answer,
            error=refused,
        )

    def _max_tokens(self, prompt_ids: tuple[int, ...], plan: RecordingPlan) -> int:
        """Return how long a sample may get and still be asked every question.

        Raises:
            ContextLengthError: As long as was asked for, or as the last checkpoint, does not fit.
        """
        asked = len(self._untrained_ids) if plan.untrained_question else 0
        question = max(asked, len(self._evaluator.question_ids))
        context_length = self.engine.capabilities.context_length
        room = context_length - len(prompt_ids) - question
        needed = plan.max_tokens or 1 + max(plan.checkpoints, default=0)
        if room < needed:
            raise ContextLengthError(
                num_prompt_tokens=len(prompt_ids),
                num_reserved_tokens=question + needed,
                context_length=context_length,
            )
        return plan.max_tokens or room

    async def _samples(
        self, draw: Draw, prompt_ids: tuple[int, ...], max_tokens: int
    ) -> tuple[SampleRecord, ...]:
        sampling = SamplingParams(
            temperature=draw.plan.temperature,
            max_tokens=max_tokens,
            seed=draw.seed,
            stop_token_ids=self._chat.end_token_ids,
            top_p=draw.plan.top_p,
            top_k=draw.plan.top_k,
            min_p=draw.plan.min_p,
            repetition_penalty=draw.plan.repetition_penalty,
        )
        kinds = await _all(
            self._kind(draw, prompt_ids, sampling, schedule) for schedule in draw.plan.schedules()
        )
        # The two kinds may share a sample (a schedule may end at the one temperature).
        return tuple({(s.index, s.temperature): s for kind in kinds for s in kind}.values())

    async def _kind(
        self,
        draw: Draw,
        prompt_ids: tuple[int, ...],
        sampling: SamplingParams,
        temperatures: TemperatureSchedule,
    ) -> list[SampleRecord]:
        listener = _Listener(self.engine)
        name = f"prompt {draw.prompt.prompt_id!r}"
        try:
            outcome = await run(
                prompt_ids,
                engine=listener,
                evaluator=self._evaluator,
                policy=draw.plan.policy(temperatures),
                limits=Limits(max_samples=draw.plan.num_samples),
                sampling=sampling,
            )
        except NoFinishedSampleError as error:
            raise EngineError(f"{name}: {error}") from error
        if outcome.trace.fault is not None:
            raise EngineError(f"{name}: {outcome.trace.fault}")
        asked = draw.plan.untrained_question and isinstance(temperatures, Constant)
        return await _all(
            self._record(prompt_ids, s, listener, asked=asked) for s in outcome.samples
        )

    async def _record(
        self, prompt_ids: tuple[int, ...], sample: Sample, listener: _Listener, *, asked: bool
    ) -> SampleRecord:
        assert sample.finish_reason is not None, "nothing was pruned, and nothing failed"
        untrained = None
        if asked:
            answer = await self.engine.label_logprobs(
                prompt_ids + sample.token_ids + self._untrained_ids, self._yes_no
            )
            untrained = (answer.logprobs[0], answer.logprobs[1])
        said = {}
        for evaluation in sample.evaluations:
            place = evaluation.num_tokens
            ids = prompt_ids + sample.token_ids[:place] + self._evaluator.question_ids
            said[place] = (listener.heard[ids][0], listener.heard[ids][1])
        return SampleRecord(
            index=sample.index,
            temperature=sample.temperature,
            seed=sample.seed,
            token_ids=sample.token_ids,
            num_generated_tokens=sample.num_generated_tokens,
            finish_reason=sample.finish_reason,
            text=self._chat.decode(sample.token_ids).strip(),
            sum_logprob=sample.sum_logprob,
            label_logprobs=said,
            untrained_logprobs=untrained,
        )


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


async def _all(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run jobs together; the first failure stops the others and is raised as it is."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
