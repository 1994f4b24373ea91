"""A model that evaluates itself: engine, chat template and self-evaluation under one roof.

What adapters and the command line talk to::

    model = load_model("reference")
    answer = await model.answer([Message(role="user", content="Use 3, 19 and 25 to make 41.")])
    answer.text, answer.outcome.confidence, answer.outcome.usage
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from selfeval_backend.chat import Chat, ChatTemplate, Message
from selfeval_backend.controller import Follower, Observer, run
from selfeval_backend.engine.base import Engine, SamplingParams
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    MissingDependencyError,
    StreamBrokenError,
)
from selfeval_backend.policy import BestOfN, Policy
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator, TrustLevel
from selfeval_backend.selfeval_files import find_selfeval
from selfeval_backend.settings import Settings, resolve_settings
from selfeval_backend.stop_strings import StopStrings
from selfeval_backend.structured import (
    NO_REASONING,
    AnswerForm,
    Parsed,
    ReasoningForm,
    ReasoningParser,
    ToolParser,
    load_reasoning_parser,
    load_tool_parser,
    reasoning_of,
)
from selfeval_backend.sync import contained, run_sync
from selfeval_backend.text_flow import TextFlow
from selfeval_backend.types import Outcome, Sample, SelfEvaluation, Usage, to_json
from selfeval_backend.web import check_key, clean_url

__all__ = [
    "Answer",
    "EngineName",
    "Judgement",
    "ReasoningPiece",
    "SelfEvaluatingModel",
    "Server",
    "UncalibratedWarning",
    "check_where_it_runs",
    "choose_engine",
    "load_model",
]

EngineName = Literal["transformers", "vllm"]
"""Engines that `load_model` can start."""

REFERENCE = "reference"
"""The name of the shipped reference model."""

_STREAMED_TOKENS = 4
"""Of a streamed answer: most tokens that come together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running vLLM server, and how it is talked to."""

    base_url: str | tuple[str, ...]
    """Up to and with the version: ``http://host:8000/v1``. Several are replicas of one model: a
    prompt stays on one of them, and goes on elsewhere if that one fails."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as a bearer token. It is in no message, and no part of the repr."""
    timeout_s: float = 60.0
    """Longest silence: while it connects, and between two tokens."""
    max_retries: int = 2
    """Times that a request is sent again that failed before any token came."""
    verify: bool | str = True
    """False: certificates are not checked; a path: a bundle of authorities."""

    def __post_init__(self) -> None:
        """Take the URLs and the key without what was pasted with them.

        Raises:
            ConfigurationError: A URL holds a password, or no header can carry the key.
        """
        given = self.base_url
        urls = clean_url(given) if isinstance(given, str) else tuple(map(clean_url, given))
        object.__setattr__(self, "base_url", urls)
        object.__setattr__(self, "api_key", check_key(self.api_key))


class UncalibratedWarning(UserWarning):
    """A model whose confidences are not calibrated, or that has none as nothing is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A chosen response, and all about how it was come by."""

    text: str
    """Of the chosen sample."""
    model: str
    """The model's name."""
    engine: str
    """The engine's name."""
    settings: Settings
    """As they were resolved."""
    seed: int
    """Of the run: with the same model, engine and settings it gives the same answer."""
    outcome: Outcome
    """The samples, which one was chosen and why, and what it all cost."""
    level: TrustLevel
    """What is known of the model's self-evaluation. "unknown": the answer is the greedy sample."""
    parsed: Parsed | None = None
    """What was found in the chosen sample; None where no form was asked for."""

    @property
    def no_confidence(self) -> str | None:
        """Why there is no confidence; None where there is one."""
        if self.outcome.confidence is not None:
            return None
        if self.level == "unknown":
            return "the model has no selfeval.json: it was not trained to evaluate itself"
        return f"the run ended before it was asked ({self.outcome.stop_reason})"

    def summary(self) -> dict[str, Any]:
        """Return what a caller wants to know, in JSON types: confidence, samples, tokens, policy.

        Texts and token ids of the samples that were not chosen are not in it.
        """
        outcome = self.outcome
        best = outcome.best_sample
        return {
            "confidence": outcome.confidence,
            "calibrated": outcome.calibrated,
            "level": self.level,
            "no_confidence": self.no_confidence,
            "stop_reason": outcome.stop_reason,
            "fault": outcome.trace.fault,
            "num_samples": len(outcome.samples),
            "valid": best.valid,
            "num_invalid": sum(s.valid is False for s in outcome.samples),
            "samples": [_describe(outcome, index) for index in range(len(outcome.samples))],
            "tokens": {
                "chosen": best.num_generated_tokens,
                "total": outcome.usage.total_tokens,
                **to_json(outcome.usage),
            },
            "policy": {**to_json(self.settings), "seed": self.seed},
            "engine": self.engine,
        }


class ReasoningPiece(str):
    """A piece of a streamed answer that is reasoning, and no part of its text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a model says of a response that was given to it."""

    evaluation: SelfEvaluation
    usage: Usage
    """Paid for."""


def _describe(outcome: Outcome, index: int) -> dict[str, Any]:
    sample = outcome.samples[index]
    return {
        "temperature": sample.temperature,
        "generated_tokens": sample.num_generated_tokens,
        "finish_reason": sample.finish_reason,
        "valid": sample.valid,
        "beyond_training": sample.beyond_training,
        "fate": outcome.fate(index),
        "evaluations": to_json(sample.evaluations),
    }


class SelfEvaluatingModel:
    """Answers conversations with adaptive Best-of-N.

    Args:
        name: What it is called in answers.
        engine: Generates and evaluates.
        chat: The model's tokenizer and chat template.
        config: The model's ``selfeval.json``; None: it has none. Then every answer is the greedy
            sample, without a confidence, whatever the settings, and an UncalibratedWarning says so.
            ``SelfEvalConfig()`` asks the paper's question all the same, zero-shot.

    Raises:
        SelfEvaluationError: The tokenizer lacks the label tokens.
    """

    def __init__(
        self, *, name: str, engine: Engine, chat: Chat, config: SelfEvalConfig | None
    ) -> None:
        self.name = name
        self.engine = engine
        self.chat = chat
        self.evaluator = SelfEvaluator(config, chat)
        """Asks the question, and reads the answer as a probability."""
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
            name: As for `selfeval_backend.structured.load_tool_parser`; None: what the model's
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
            name: As for `selfeval_backend.structured.load_reasoning_parser`; or "none": nothing is
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
        """Return the settings of a call: what is given, else the model's own, else the defaults.

        Raises:
            ConfigurationError: A value is out of range, or does not fit the engine.
        """
        given, tuned = given or {}, self.evaluator.config.policy
        settings = resolve_settings(given, tuned)
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
        observer: Observer | None = None,
        follower: Follower | None = None,
    ) -> Answer:
        """Answer a conversation.

        Args:
            messages: Its turns; the last one is answered.
            settings: None: the model's own.
            form: What the answer must be: the prompt shows its tools, samples are drawn under its
                grammar, and one that it cannot read is chosen only where it can read none. None:
                text.
            policy: None: the one that the settings describe; of a model of which nothing is known,
                the greedy sample.
            observer: Told of every decision once it has been carried out.
            follower: Told of the chosen sample as it grows, from when it is certain which it is.

        Raises:
            ConfigurationError: Messages or settings cannot be used; before any token.
            ContextLengthError: The prompt does not fit; before any token.
            NoFinishedSampleError: The run ended before any sample had; carries the trace.
        """
        settings = settings or self.settings()
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
                max_tokens=self.max_tokens(prompt_ids, settings),
                seed=seed,
                stop_token_ids=self.chat.end_token_ids,
                grammar=None if form is None else form.grammar,
                chunk_tokens=None if follower is None else _STREAMED_TOKENS,
            ),
            stop_strings=self._stop_strings(settings),
            validator=lambda token_ids: self._valid(token_ids, settings, form),
            observer=observer,
            follower=follower,
        )
        return Answer(
            text=self.text(outcome.best_sample, settings),
            model=self.name,
            engine=self.engine.capabilities.name,
            settings=settings,
            seed=seed,
            outcome=outcome,
            level=self.level,
            parsed=(
                None
                if form is None
                else self._parsed(outcome.best_sample.token_ids, settings, form)
            ),
        )

    def _trusted(self, settings: Settings) -> tuple[Settings, BestOfN]:
        """Return what is done of the settings: where nothing is known, no sample is chosen."""
        if self.level != "unknown":
            return settings, settings.policy()
        one = replace(settings.unpruned(), max_samples=1, adaptive=True)
        return one, replace(one.policy(), evaluate=False)

    async def stream(
        self,
        messages: Sequence[Message],
        settings: Settings | None = None,
        *,
        form: AnswerForm | None = None,
        policy: Policy | None = None,
        observer: Observer | None = None,
    ) -> AsyncGenerator[str | Answer, None]:
        """Answer a conversation, and give the text as soon as it is certain which sample it is.

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
            observer: Told of every decision once it has been carried out.

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
        flow = _AnswerFlow(self.chat.decode, self._stop_strings(settings), form)
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def follow(sample: Sample) -> None:
            for piece in flow.grow(sample):
                pieces.put_nowait(piece)

        running = asyncio.create_task(
            contained(
                partial(
                    self.answer,
                    messages,
                    settings,
                    form=form,
                    policy=policy,
                    observer=observer,
                    follower=follow,
                )
            )
        )
        running.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            for last in flow.end((await running).result()):
                yield last
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

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
        if not response_ids or _is_blank(response):
            raise ConfigurationError("response", response, "a response with text")
        prompt_ids = self.chat.prompt_ids(messages)
        question_ids = self.evaluator.question_ids
        context_length = self.engine.capabilities.context_length
        if len(prompt_ids) + len(response_ids) + len(question_ids) > context_length:
            raise ContextLengthError(
                num_prompt_tokens=len(prompt_ids),
                num_reserved_tokens=len(response_ids) + len(question_ids),
                context_length=context_length,
            )
        answer = await self.engine.label_logprobs(
            prompt_ids + response_ids + question_ids, self.evaluator.label_ids
        )
        return Judgement(
            evaluation=self.evaluator.read(
                (answer.logprobs[0], answer.logprobs[1]), num_tokens=len(response_ids), final=True
            ),
            usage=Usage(
                self_evaluations=1,
                self_evaluation_tokens=answer.computed_tokens,
                cached_self_evaluation_tokens=answer.cached_tokens,
            ),
        )

    def text(self, sample: Sample, settings: Settings) -> str:
        """Return the text of a sample: without stop strings, and without space around it."""
        return self._text(sample.token_ids, settings)

    def _valid(
        self, token_ids: tuple[int, ...], settings: Settings, form: AnswerForm | None
    ) -> bool | None:
        """Tell whether a sample is of the form that was asked for; one without text is of none."""
        if _is_blank(self._text(token_ids, settings)):
            return False
        return None if form is None else self._parsed(token_ids, settings, form).valid

    def _parsed(self, token_ids: tuple[int, ...], settings: Settings, form: AnswerForm) -> Parsed:
        keep = form.keeps_special_tokens
        return form.parse(self._text(token_ids, settings, keep_special_tokens=keep))

    def _text(
        self, token_ids: tuple[int, ...], settings: Settings, *, keep_special_tokens: bool = False
    ) -> str:
        text = self.chat.decode(token_ids, keep_special_tokens=keep_special_tokens)
        stop_strings = self._stop_strings(settings)
        return (text if stop_strings is None else stop_strings.cut(text)).strip()

    def _stop_strings(self, settings: Settings) -> StopStrings | None:
        return StopStrings(settings.stop, decode=self.chat.decode) if settings.stop else None

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


def _is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: white space, control characters, or none at all."""
    return not any(letter.isprintable() and not letter.isspace() for letter in text)


class _AnswerFlow:
    """An answer in pieces, before it is whole: its text, and its reasoning where a form has one."""

    def __init__(
        self,
        decode: Callable[..., str],
        stop_strings: StopStrings | None,
        form: AnswerForm | None,
    ) -> None:
        settled = None if form is None else form.settled
        if form is not None and form.keeps_special_tokens:
            decode = partial(decode, keep_special_tokens=True)
        self._text = TextFlow(decode, stop_strings, settled=settled)
        self._reasoning = (
            TextFlow(decode, stop_strings, settled=form.settled_reasoning)
            if isinstance(form, ReasoningForm)
            else None
        )
        self._followed: int | None = None

    def grow(self, sample: Sample) -> Iterator[str]:
        """Yield what can be given of the sample that is followed, and was not given before."""
        self._followed = sample.index
        if self._reasoning and (thought := self._reasoning.grow(sample.token_ids)):
            yield ReasoningPiece(thought)
        if piece := self._text.grow(sample.token_ids):
            yield piece

    def end(self, answer: Answer) -> Iterator[str | Answer]:
        """Yield the last pieces, and the answer as it was given.

        That is as it is itself, but for a character that was cut off within its bytes.

        Raises:
            StreamBrokenError: What was given is of another sample.
        """
        given = self._text.shown or (self._reasoning and self._reasoning.shown)
        if given and self._followed != answer.outcome.best:
            raise _stream_broken(answer)
        parsed = answer.parsed
        if self._reasoning and parsed is not None:
            if thought := self._reasoning.end(parsed.reasoning or ""):
                yield ReasoningPiece(thought)
            parsed = replace(parsed, reasoning=self._reasoning.shown or None)
        if last := self._text.end(answer.text if parsed is None else parsed.text):
            yield last
        if parsed is None:
            yield replace(answer, text=self._text.shown)
        else:
            yield replace(answer, parsed=replace(parsed, text=self._text.shown))


def _stream_broken(answer: Answer) -> StreamBrokenError:
    outcome = answer.outcome
    reason = f"{outcome.stop_reason}: {outcome.trace.fault}" if outcome.trace.fault else None
    return StreamBrokenError(reason or outcome.stop_reason, answer=answer.text, trace=outcome.trace)


def load_model(
    model: str | Path,
    *,
    engine: EngineName | None = None,
    engine_args: Mapping[str, Any] | None = None,
    server: Server | None = None,
    checkpoint: str | Path | None = None,
) -> SelfEvaluatingModel:
    """Load a model with its self-evaluation.

    Args:
        model: "reference", a checkpoint folder, or a model name that transformers can resolve. Of a
            server: the name it is served under.
        engine: None: the server, if there is one; else vLLM where it is installed and a GPU is
            there; else transformers.
        engine_args: For vLLM in this process alone: keyword arguments of `vllm.EngineArgs`.
        server: Runs the model.
        checkpoint: Where the tokenizer and the selfeval.json of a server's model are found;
            None: `model` says it.

    Raises:
        ConfigurationError: The engine is unknown.
        CheckpointError: The model cannot be found or read, or its selfeval.json is broken.
        SelfEvaluationError: Its tokenizer lacks the label tokens.
        MissingDependencyError: What the engine needs is not installed.
    """
    check_where_it_runs(
        model,
        engine=engine,
        engine_args=engine_args,
        on_server=server is not None,
        checkpoint=checkpoint,
    )
    from selfeval_backend.checkpoints import locate_checkpoint

    folder = locate_checkpoint(checkpoint or model, with_weights=server is None)
    config = _own_facts(str(checkpoint or model), folder)
    chat = ChatTemplate.load(folder)
    SelfEvaluator(config, chat)  # refuse a tokenizer without labels before weights are read
    started = (
        _load_engine(folder, engine or choose_engine(), engine_args)
        if server is None
        else _connect(server, str(model))
    )
    return SelfEvaluatingModel(name=str(model), engine=started, chat=chat, config=config)


def _own_facts(name: str, folder: Path) -> SelfEvalConfig | None:
    """Return what is in a model's selfeval.json; say so where the user's own is not used."""
    found = find_selfeval(folder)
    if found.passed_over:
        warnings.warn(
            f"{name}: {found.passed_over[0]} is for other files of a model of this name, and is "
            "not used. Tune this one, or remove the file.",
            stacklevel=3,
        )
    return found.config


def check_where_it_runs(
    model: str | Path,
    *,
    engine: str | None,
    engine_args: Mapping[str, Any] | None = None,
    on_server: bool,
    checkpoint: str | Path | None,
) -> None:
    """Refuse arguments of `load_model` that contradict each other, before anything is read.

    Raises:
        ConfigurationError: Names the first one.
    """
    if engine is not None and engine not in get_args(EngineName):
        raise ConfigurationError("engine", engine, f"one of {', '.join(get_args(EngineName))}")
    if not str(model).strip():
        raise ConfigurationError("model", model, '"reference", a folder or a model name')
    if checkpoint is not None and not on_server:
        raise ConfigurationError("checkpoint", checkpoint, "none without a server")
    if on_server and (engine is not None or engine_args):
        raise ConfigurationError(
            "engine" if engine else "engine_args",
            engine or dict(engine_args or {}),
            "none with base_url: the server has its own",
        )


def choose_engine() -> EngineName:
    """Return the engine that `load_model` takes where none is named.

    vLLM where it is installed and a GPU is there, else transformers.
    """
    if importlib.util.find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def _load_engine(folder: Path, name: EngineName, engine_args: Mapping[str, Any] | None) -> Engine:
    if name == "vllm":
        from selfeval_backend.engine.vllm import load_vllm_engine

        return load_vllm_engine(str(folder), engine_args=engine_args)
    if engine_args:
        raise ConfigurationError(
            "engine_args",
            dict(engine_args),
            "none with the engine 'transformers'",
            remedy='They are vLLM\'s: add engine="vllm".',
        )
    from selfeval_backend.engine.transformers import load_transformers_engine

    return load_transformers_engine(str(folder))


def _connect(server: Server, model: str) -> Engine:
    try:
        from selfeval_backend.engine.server import connect_server_engine
    except ImportError as error:
        raise MissingDependencyError(error.name or "httpx", extra="server") from error
    from selfeval_backend.engine.replicas import connect_replicas

    connect = partial(
        connect_server_engine,
        model=model,
        api_key=server.api_key,
        timeout_s=server.timeout_s,
        max_retries=server.max_retries,
        verify=server.verify,
    )
    if isinstance(server.base_url, str):
        return run_sync(connect(server.base_url))
    if not server.base_url:
        raise ConfigurationError("base_url", server.base_url, "at least one URL")
    return run_sync(connect_replicas({url: partial(connect, url) for url in server.base_url}))
