"""A model that evaluates itself: engine, chat template and self-evaluation under one roof."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from selfeval_backend.chat import (
    NO_REASONING,
    AnswerForm,
    Chat,
    Message,
    ReasoningParser,
    ToolParser,
    load_reasoning_parser,
    load_tool_parser,
    reasoning_of,
)
from selfeval_backend.controller import Follower, OnProgress, run
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
)
from selfeval_backend.model.answer import Answer
from selfeval_backend.model.reading import SampleReader, is_blank
from selfeval_backend.model.streaming import AnswerFlow, in_pieces
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.selfeval import Judgement, SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import Settings, check_model_policy, lay_over
from selfeval_backend.types import Sample, TrustLevel

__all__ = ["SelfEvaluatingModel", "UncalibratedWarning"]

_STREAMED_TOKENS = 4
"""Of a streamed answer: most tokens that come together."""


class UncalibratedWarning(UserWarning):
    """A model whose confidences are not calibrated, or that has none as nothing is known of it."""


class SelfEvaluatingModel:
    """Answers messages with adaptive Best-of-N.

    Args:
        name: What it is called in answers.
        engine: Generates and evaluates.
        chat: The model's tokenizer and chat template.
        config: The model's ``selfeval.json``; None: it has none. Then every answer is the greedy
            sample, without a confidence, whatever the settings, and an UncalibratedWarning says so.
            ``SelfEvalConfig()`` asks the paper's question all the same, zero-shot.
        generation_config: How its makers say that it is to be sampled
            (`selfeval_backend.model.generation_config`).

    Raises:
        ModelFilesError: The policy of the selfeval.json is none.
        SelfEvaluationError: The tokenizer lacks the label tokens.
    """

    def __init__(
        self,
        *,
        name: str,
        engine: Engine,
        chat: Chat,
        config: SelfEvalConfig | None,
        generation_config: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.generation_config = generation_config
        """How its makers say that it is to be sampled."""
        self.engine = engine
        self.chat = chat
        self.evaluator = SelfEvaluator(config, chat)
        """Asks the question, and reads the answer as a probability."""
        check_model_policy(self.evaluator.config.policy)
        self.level: TrustLevel = "unknown" if config is None else "trained"
        """What is known of its self-evaluation."""
        if self.level == "unknown":
            warnings.warn(
                f"{name} has no selfeval.json, so it answers with one greedy sample and no "
                "confidence: nothing shows that it can tell its good samples from its bad ones. "
                "`aic train` teaches it.",
                UncalibratedWarning,
                stacklevel=3,
            )
        elif not self.evaluator.calibrated:
            warnings.warn(
                f"{name} is not calibrated: its selfeval.json has no calibration, and confidences "
                "are marked calibrated: false. `aic train` calibrates.",
                UncalibratedWarning,
                stacklevel=3,
            )
        self._tool_parsers: dict[str | None, ToolParser] = {}
        self._reasoning_parsers: dict[str | None, ReasoningParser | None] = {}

    def __deepcopy__(self, memo: object) -> SelfEvaluatingModel:
        """Return itself: whatever is copied around it shares its weights and its batches."""
        return self

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "model",
            self.name,
            "none that is loaded, where it is pickled for another process",
            remedy="Load it there, or pickle an adapter that names it.",
        )

    def tool_parser(self, name: str | None) -> ToolParser:
        """Return what reads this model's calls where it is free to call.

        Args:
            name: As for `selfeval_backend.chat.load_tool_parser`; None: what the model's
                tokenizer and chat template say.

        Raises:
            ConfigurationError: There is none of that name, it does not go with the model, or it
                has to be named, as the model writes calls in a way that nothing here reads.
            MissingDependencyError: It is vLLM's, which is not installed.
        """
        if name not in self._tool_parsers:
            self._tool_parsers[name] = load_tool_parser(name, self.chat)
        return self._tool_parsers[name]

    def reasoning_parser(self, name: str | None) -> ReasoningParser | None:
        """Return what tells this model's reasoning from its answers; None: it shows none.

        Args:
            name: As for `selfeval_backend.chat.load_reasoning_parser`; or "none": nothing is
                told apart; or None: what the model's tokenizer and chat template say.

        Raises:
            ConfigurationError: There is none of that name, or it does not go with the model.
            MissingDependencyError: It is vLLM's, which is not installed.
        """
        if name == NO_REASONING:
            return None
        if name not in self._reasoning_parsers:
            self._reasoning_parsers[name] = (
                reasoning_of(self.chat) if name is None else load_reasoning_parser(name, self.chat)
            )
        return self._reasoning_parsers[name]

    def settings(self, given: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of a call.

        What is given, else what the model was tuned for, else its generation_config.json, else the
        defaults; `Settings.sources` says which.

        Raises:
            ConfigurationError: A value is out of range, or does not fit the engine.
        """
        given, tuned = given or {}, self.evaluator.config.policy
        settings = lay_over(given, tuned, self.generation_config)
        if settings.prune_at and not self.engine.capabilities.evaluates_mid_generation:
            raise ConfigurationError(
                "prune_at",
                settings.prune_at,
                f"no checkpoint: the engine {self.engine.capabilities.name!r} cannot evaluate "
                "mid-generation",
            )
        accept_above, prune_at = given.get("accept_above"), given.get("prune_at")
        if accept_above is not None and not (
            tuned.get("prune_at") if prune_at is None else prune_at
        ):
            raise ConfigurationError(
                "accept_above",
                accept_above,
                "none without a checkpoint to accept a sample at",
                remedy="Say where: prune_at=64, for example.",
            )
        return settings

    async def answer(
        self,
        messages: Sequence[Message],
        settings: Settings | None = None,
        *,
        form: AnswerForm | None = None,
        policy: Policy | None = None,
        on_progress: OnProgress | None = None,
    ) -> Answer:
        """Answer messages.

        Args:
            messages: Its turns; the last one is answered.
            settings: None: the model's own.
            form: What the answer must be: the prompt shows its tools, samples are drawn under its
                grammar, and one that it cannot read is chosen only where it can read none. None:
                text.
            policy: None: the one that the settings describe; of a model of which nothing is known,
                the greedy sample.
            on_progress: Told of every decision once it has been carried out.

        Raises:
            ConfigurationError: Messages or settings cannot be used; before any token.
            ContextLengthError: The prompt does not fit; before any token.
            NoFinishedSampleError: The run ended before any sample had; carries the trace.
        """
        settings = settings or self.settings()
        reader = SampleReader(self.chat, settings.stop, form)
        return await self._answered(messages, settings, reader, policy, on_progress)

    def stream(
        self,
        messages: Sequence[Message],
        settings: Settings | None = None,
        *,
        form: AnswerForm | None = None,
        policy: Policy | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[str | Answer, None]:
        """Answer messages, and give the text as soon as it is certain which sample it is.

        That is when a sample was accepted at a checkpoint (`Settings.accept_above`), when only one
        is left that can win (``max_samples=1``: at once), else when the answer is chosen. With the
        same seed the answer is that of `answer`, but for limits on tokens or seconds, which are
        looked at more often.

        Leaving the generator (``aclose``, or cancelling its task) ends every sample.

        Args:
            messages: Its turns; the last one is answered.
            settings: None: the model's own.
            form: As for `answer`. Text flows as far as it can be no call of a tool, and JSON as
                text; what can only be read as a whole (a forced call, vLLM's parsers) comes with
                the Answer.
            policy: None: the one that the settings describe.
            on_progress: Told of every decision once it has been carried out.

        Yields:
            Pieces of the text, none of them empty, which together are the answer's (with a form,
            of what was parsed), with a `ReasoningForm` behind pieces of the reasoning, each a
            ReasoningPiece; then the Answer.

        Raises:
            StreamBrokenError: The sample whose text was given did not finish (a limit, a fault),
                and another one is the answer.
            AICError: What `answer` raises.
        """
        settings = settings or self.settings()
        reader = SampleReader(self.chat, settings.stop, form)
        answer = partial(self._answered, messages, settings, reader, policy, on_progress)
        return in_pieces(answer, AnswerFlow(reader))

    async def _answered(
        self,
        messages: Sequence[Message],
        settings: Settings,
        reader: SampleReader,
        policy: Policy | None,
        on_progress: OnProgress | None,
        follower: Follower | None = None,
    ) -> Answer:
        form = reader.form
        if policy is None:
            settings, policy = self._trusted(settings)
        prompt_ids = self.chat.prompt_ids(messages, () if form is None else form.shown)
        seed = secrets.randbits(32) if settings.seed is None else settings.seed
        outcome = await run(
            prompt_ids,
            engine=self.engine,
            evaluator=self.evaluator,
            policy=policy,
            limits=settings.limits(),
            sampling=SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                min_p=settings.min_p,
                repetition_penalty=settings.repetition_penalty,
                max_tokens=self.max_tokens(prompt_ids, settings),
                seed=seed,
                stop_token_ids=self.chat.end_token_ids,
                grammar=None if form is None else form.grammar,
                chunk_tokens=None if follower is None else _STREAMED_TOKENS,
            ),
            stop_strings=reader.stop_strings,
            validator=reader.valid,
            on_progress=on_progress,
            follower=follower,
        )
        chosen = outcome.best_sample.token_ids
        return Answer(
            text=reader.text(chosen),
            model=self.name,
            engine=self.engine.capabilities.name,
            settings=settings,
            seed=seed,
            outcome=outcome,
            level=self.level,
            parsed=reader.parsed(chosen),
        )

    def _trusted(self, settings: Settings) -> tuple[Settings, BestOfN]:
        """Return what is done of the settings: where nothing is known, no sample is chosen."""
        if self.level != "unknown":
            return settings, settings.policy()
        one = replace(settings.unpruned(), max_samples=1, adaptive=True)
        return one, replace(one.policy(), evaluate=False)

    async def judge(self, messages: Sequence[Message], response: str) -> Judgement:
        """Ask the self-evaluation question of a finished response, wherever it comes from.

        What the model learned it learned on its own responses: of another's, the probability is
        what it would be, had this model written it.

        Args:
            messages: The turns before it.
            response: Its text.

        Raises:
            ConfigurationError: The messages cannot be used, the response is blank, or the model
                has no selfeval.json.
            ContextLengthError: They do not fit, with the question.
        """
        if self.level == "unknown":
            raise ConfigurationError(
                "model",
                self.name,
                "one with a selfeval.json",
                remedy="Nothing shows that this one can judge a response: `aic train` teaches it.",
            )
        response_ids = self.chat.response_ids(response)
        if not response_ids or is_blank(response):
            raise ConfigurationError("response", response, "a response with text")
        prompt_ids = self.chat.prompt_ids(messages)
        reserved = len(response_ids) + len(self.evaluator.question_ids)
        context_length = self.engine.capabilities.context_length
        if len(prompt_ids) + reserved > context_length:
            raise ContextLengthError(
                num_prompt_tokens=len(prompt_ids),
                num_reserved_tokens=reserved,
                context_length=context_length,
            )
        return await self.evaluator.judge(self.engine, prompt_ids, response_ids, final=True)

    def text(self, sample: Sample, settings: Settings) -> str:
        """Return the text of a sample: without stop strings, and without space around it."""
        return SampleReader(self.chat, settings.stop).text(sample.token_ids)

    def texts(self, answer: Answer) -> list[str]:
        """Return the texts of all samples of an answer, in order of drawing."""
        return [self.text(sample, answer.settings) for sample in answer.outcome.samples]

    def max_tokens(self, prompt_ids: tuple[int, ...], settings: Settings) -> int:
        """Return how many tokens a sample of this prompt may have: as set, else what fits.

        Raises:
            ContextLengthError: Not one token more than the last checkpoint fits.
        """
        if settings.max_tokens is not None:
            return settings.max_tokens
        context_length = self.engine.capabilities.context_length
        reserved = len(self.evaluator.question_ids)
        left = context_length - len(prompt_ids) - reserved
        needed = 1 + max(settings.prune_at, default=0)
        if left < needed:
            raise ContextLengthError(
                num_prompt_tokens=len(prompt_ids),
                num_reserved_tokens=reserved + needed,
                context_length=context_length,
            )
        return left

    async def aclose(self) -> None:
        """Close the engine."""
        await self.engine.aclose()
