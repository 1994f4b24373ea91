"""A deterministic engine and chat template, for tests with no weights: ours and our users'.

::

    chat = ScriptedChat()
    engine = ScriptedEngine(
        [chat.response("41 = 19 + 25 - 3", prob_win_or_tie=0.2), chat.response("41", 0.95)]
    )
    model = SelfEvaluatingModel(name="scripted", engine=engine, chat=chat, config=SelfEvalConfig())
    ...
    assert engine.num_open == 0
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfeval_backend.chat import (
    Message,
    ToolSpec,
    check_messages,
    in_plain_turns,
    paired,
    with_tools,
)
from selfeval_backend.engine.base import Capabilities, Chunk, LabelLogprobs, SamplingParams
from selfeval_backend.engine.checks import check_length, check_params, check_token_ids
from selfeval_backend.engine.generator_stream import GeneratorStream
from selfeval_backend.errors import (
    ConfigurationError,
    EngineClosedError,
    EngineError,
    EngineRequestError,
    EngineResponseError,
)
from selfeval_backend.forks import Lock
from selfeval_backend.types import FinishReason

__all__ = [
    "EvaluationCall",
    "LabelScript",
    "Script",
    "ScriptedChat",
    "ScriptedEngine",
    "ScriptedResponse",
    "StreamCall",
    "label_logprobs_of",
]

LabelScript = (
    tuple[float, ...] | Mapping[int, tuple[float, ...]] | Callable[[int], tuple[float, ...]]
)
"""Natural log-probabilities of the labels: the same at every position, or by number of tokens."""


def label_logprobs_of(prob_win_or_tie: float) -> tuple[float, float]:
    """Return log-probabilities of (win or tie, loss) that read as this raw probability, in [0, 1].

    Raises:
        ConfigurationError: It is no probability.
    """
    if not 0.0 <= prob_win_or_tie <= 1.0:
        raise ConfigurationError("prob_win_or_tie", prob_win_or_tie, "a number in [0, 1]")
    return (_log(prob_win_or_tie), _log(1.0 - prob_win_or_tie))


def _log(prob: float) -> float:
    return math.log(prob) if prob > 0.0 else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedResponse:
    """What one sample will be.

    Raises:
        ConfigurationError: Its counts do not fit together.
    """

    token_ids: tuple[int, ...]
    """The whole response, without its end token."""
    label_logprobs: LabelScript = (math.log(0.5), math.log(0.5))
    """What its self-evaluations read, in the order of the labels asked for."""
    finish_reason: FinishReason = "stop"
    """"length": it ends without an end token."""
    num_generated_tokens: int | None = None
    """None: `token_ids`, and the end token after a "stop"."""
    logprobs: tuple[float, ...] | None = None
    """One for each generated token; None: -1 each."""
    delay_s: float = 0.0
    """Seconds that pass before each chunk."""
    fail_after: int | None = None
    """Generated tokens after which `error` is raised; None: it does not fail."""
    error: EngineError | None = None
    """None: an EngineError that says it was scripted."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        least = max(1, len(self.token_ids))
        if self.num_generated < least:
            raise ConfigurationError(
                "num_generated_tokens", self.num_generated, f"at least {least}"
            )
        if self.logprobs is not None and len(self.logprobs) != self.num_generated:
            raise ConfigurationError(
                "logprobs", self.logprobs, f"{self.num_generated} numbers, one a generated token"
            )

    @property
    def num_generated(self) -> int:
        """Tokens that a sample of it pays for, if nothing cuts it."""
        if self.num_generated_tokens is not None:
            return self.num_generated_tokens
        return len(self.token_ids) + (self.finish_reason == "stop")

    def label_logprobs_at(self, num_tokens: int) -> tuple[float, ...]:
        """Return what a self-evaluation of the first `num_tokens` tokens reads.

        Raises:
            EngineResponseError: The script says nothing of that position.
        """
        script = self.label_logprobs
        if isinstance(script, Mapping):
            if num_tokens not in script:
                raise EngineResponseError(
                    f"no self-evaluation is known at {num_tokens} tokens of this response, "
                    f"only at {', '.join(map(str, sorted(script))) or 'none'}"
                )
            return script[num_tokens]
        return script(num_tokens) if callable(script) else script

    def knows(self, num_tokens: int) -> bool:
        """Tell whether there are label log-probabilities for that position."""
        return not isinstance(self.label_logprobs, Mapping) or num_tokens in self.label_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCall:
    """One call of `stream`."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    ordinal: int
    """Streams of this prompt that were asked for before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCall:
    """One call of `label_logprobs`."""

    token_ids: tuple[int, ...]
    label_ids: tuple[int, ...]


Script = (
    Sequence[ScriptedResponse]
    | Mapping[tuple[int, ...], Sequence[ScriptedResponse]]
    | Callable[[StreamCall], ScriptedResponse]
)
"""Responses in the order of `stream` calls, for any prompt or by prompt; or a function."""


class _Stream:
    """One call of `stream`, and how far it came."""

    def __init__(self, call: StreamCall, response: ScriptedResponse) -> None:
        self.call = call
        self.response = response
        self.token_ids, self.num_generated, self._finish_reason = _cut(response, call.params)
        self.num_delivered = 0
        self.open = False
        self.evaluated_at: set[int] = set()

    @property
    def finished(self) -> bool:
        return self.num_delivered == self.num_generated

    @property
    def fails_at(self) -> int | None:
        """Generated tokens after which it fails; None: it ends first, or does not fail."""
        at = self.response.fail_after
        return at if at is not None and at < self.num_generated else None

    @property
    def last_end(self) -> int:
        """Generated tokens at its end or its fault."""
        return self.num_generated if self.fails_at is None else self.fails_at

    def chunk_ends(self, chunk_tokens: int | None, *, pauses: bool) -> list[int]:
        """Numbers of generated tokens at which its chunks end, up to its end or its fault."""
        last = self.last_end
        ends = {last}
        if pauses:
            ends.update(self.call.params.checkpoints)
        if chunk_tokens is not None:
            ends.update(range(chunk_tokens, last, chunk_tokens))
        return sorted(end for end in ends if 0 < end <= last)

    def deliver(self, end: int, *, cached_prompt_tokens: int = 0) -> Chunk:
        """Return the piece up to `end` generated tokens."""
        start, self.num_delivered = self.num_delivered, end
        logprobs = self.response.logprobs or (-1.0,) * self.num_generated
        return Chunk(
            token_ids=self.token_ids[start:end],
            num_generated_tokens=end - start,
            finish_reason=self._finish_reason if self.finished else None,
            cached_prompt_tokens=0 if start else cached_prompt_tokens,
            logprobs=logprobs[start:end] if self.call.params.logprobs else None,
        )

    def num_cached(self, num_tokens: int) -> int:
        """Return how many of the first tokens are in the KV cache: the last drawn one never is."""
        return min(num_tokens, max(self.num_delivered - 1, 0))

    def num_shared(self, response_ids: tuple[int, ...]) -> int:
        """Return how many of the delivered tokens these begin with."""
        mine = self.token_ids[: self.num_delivered]
        pairs = zip(mine, response_ids, strict=False)
        return next(
            (i for i, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(response_ids))
        )


def _cut(
    response: ScriptedResponse, params: SamplingParams
) -> tuple[tuple[int, ...], int, FinishReason]:
    """Return token ids, number of generated tokens and finish reason under these parameters."""
    ends = (i for i, token in enumerate(response.token_ids) if token in params.stop_token_ids)
    end = next(ends, None)
    if end is not None and end < params.max_tokens:
        return response.token_ids[:end], end + 1, "stop"
    if response.num_generated > params.max_tokens:
        return response.token_ids[: params.max_tokens], params.max_tokens, "length"
    return response.token_ids, response.num_generated, response.finish_reason


class ScriptedEngine:
    """An engine whose samples and self-evaluations are written down beforehand.

    Which sample a self-evaluation speaks of is found by its tokens. Where several begin with the
    same tokens, they are taken in the order in which they were drawn. The KV cache of a prompt is
    counted as there while another stream of it is open, and that of a response while its own is.

    Args:
        script: The responses.
        name: In `capabilities`.
        context_length: In `capabilities`.
        label_ids: Labels that the script's log-probabilities are of; None: whatever is asked for.
        unknown_label_logprobs: Of sequences that do not begin with what was streamed; None: they
            are refused.
        evaluates_mid_generation: False: self-evaluations of unfinished streams are refused.
        pauses_at_checkpoints: False: chunks do not end at checkpoints, so that a consumer gets
            more than it asked for.
        chunk_tokens: Most generated tokens of a chunk, where the call does not say; None: no bound.
        overshoot_tokens: Tokens that a sample goes on for after its last chunk was taken, before
            its stream is closed: the last word.
        repeat: Whether a list of responses begins anew when it is used up.
        evaluation_delay_s: Seconds that each self-evaluation takes.
        takes_grammars: False: a call with a grammar is refused. Else it is the script's to follow
            it; `StreamCall.params` has it.
        takes_min_p: False: a call with min_p is refused. How else samples are to be drawn is the
            script's to heed.
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        context_length: int = 1_000_000,
        label_ids: tuple[int, ...] | None = None,
        unknown_label_logprobs: tuple[float, ...] | None = None,
        evaluates_mid_generation: bool = True,
        pauses_at_checkpoints: bool = True,
        chunk_tokens: int | None = None,
        overshoot_tokens: int = 0,
        repeat: bool = False,
        evaluation_delay_s: float = 0.0,
        takes_grammars: bool = True,
        takes_min_p: bool = True,
    ) -> None:
        self.capabilities = Capabilities(
            name=name,
            context_length=context_length,
            evaluates_mid_generation=evaluates_mid_generation,
            pauses_at_checkpoints=pauses_at_checkpoints,
            takes_grammars=takes_grammars,
            takes_min_p=takes_min_p,
        )
        self.stream_calls: list[StreamCall] = []
        """Every call of `stream`, in order."""
        self.evaluation_calls: list[EvaluationCall] = []
        """Every call of `label_logprobs`, in order."""
        self._script = script
        self._label_ids = label_ids
        self._unknown_label_logprobs = unknown_label_logprobs
        self._chunk_tokens = chunk_tokens
        self._overshoot_tokens = overshoot_tokens
        self._repeat = repeat
        self._evaluation_delay_s = evaluation_delay_s
        self._num_asked: Counter[tuple[int, ...]] = Counter()
        self._begun: dict[tuple[int, ...], list[_Stream]] = {}
        self._closed = False
        # Runs in several threads, each with a loop of its own, may share the engine.
        self._lock = Lock()

    @property
    def num_open(self) -> int:
        """Streams that have begun and are not closed."""
        with self._lock:
            return sum(stream.open for begun in self._begun.values() for stream in begun)

    @property
    def num_running(self) -> int:
        """Open streams that have not finished."""
        with self._lock:
            streams = [stream for begun in self._begun.values() for stream in begun]
            return sum(stream.open and not stream.finished for stream in streams)

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> GeneratorStream:
        """Generate the next sample of a prompt; see `Engine.stream`.

        Raises:
            ConfigurationError: The prompt or a parameter is out of range.
            ContextLengthError: Prompt and max_tokens exceed the context.
            EngineError: The script is used up, or it says so.
        """
        with self._lock:
            ordinal = self._num_asked[prompt_ids]
            self._num_asked[prompt_ids] += 1
            call = StreamCall(prompt_ids=prompt_ids, params=params, ordinal=ordinal)
            self.stream_calls.append(call)
        return GeneratorStream(lambda rest: self._generate(call, rest))

    async def _generate(self, call: StreamCall, rest: list[Chunk]) -> AsyncGenerator[Chunk, None]:
        self._check_open()
        check_params(call.params, self.capabilities)
        self._check_length("prompt_ids", call.prompt_ids, call.params.max_tokens)
        stream = _Stream(call, self._response(call))
        cached = self._begin(stream)
        pauses = self.capabilities.pauses_at_checkpoints
        try:
            chunk_tokens = call.params.chunk_tokens or self._chunk_tokens
            for end in stream.chunk_ends(chunk_tokens, pauses=pauses):
                await asyncio.sleep(stream.response.delay_s)
                self._check_open()
                yield stream.deliver(end, cached_prompt_tokens=cached)
            if stream.fails_at is not None:
                raise stream.response.error or EngineError("The script says: fail here.")
        finally:
            if self._overshoot_tokens and stream.num_delivered:
                overshot = min(stream.num_delivered + self._overshoot_tokens, stream.last_end)
                rest.append(replace(stream.deliver(overshot), finish_reason=None))
            with self._lock:
                stream.open = False

    def _begin(self, stream: _Stream) -> int:
        """Open a stream; return the prompt tokens that another open one has in its KV cache."""
        prompt_ids = stream.call.prompt_ids
        with self._lock:
            begun = self._begun.setdefault(prompt_ids, [])
            cached = len(prompt_ids) if any(other.open for other in begun) else 0
            begun.append(stream)
            stream.open = True
        return cached

    def _response(self, call: StreamCall) -> ScriptedResponse:
        if callable(self._script):
            return self._script(call)
        responses = self._script
        if isinstance(responses, Mapping):
            responses = responses.get(call.prompt_ids, ())
        ordinal = call.ordinal
        if self._repeat and responses:
            ordinal %= len(responses)
        if ordinal >= len(responses):
            raise EngineError(
                f"The {self.capabilities.name} engine is used up: it holds {len(responses)} "
                f"responses to this prompt of {len(call.prompt_ids)} tokens, and response "
                f"{ordinal + 1} was asked for."
            )
        return responses[ordinal]

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return what the script says; see `Engine.label_logprobs`.

        Raises:
            EngineRequestError: Nothing was ever streamed that these tokens could speak of.
            EngineResponseError: The script says nothing of this position, or of these labels.
        """
        self._check_open()
        self._check_length("token_ids", token_ids, 0)
        self.evaluation_calls.append(EvaluationCall(token_ids=token_ids, label_ids=label_ids))
        answer, cached = self._read(token_ids)
        known = range(len(label_ids)) if self._label_ids is None else self._label_ids
        asked = known if self._label_ids is None else label_ids
        by_label = dict(zip(known, answer, strict=False))
        if len(answer) != len(known) or not by_label.keys() >= set(asked):
            raise EngineResponseError(
                f"the labels {label_ids} were asked for, and the script gives {len(answer)} "
                f"log-probabilities, of the labels {self._label_ids or 'asked for'}"
            )
        await asyncio.sleep(self._evaluation_delay_s)
        self._check_open()
        return LabelLogprobs(
            logprobs=tuple(by_label[label] for label in asked),
            computed_tokens=len(token_ids) - cached,
            cached_tokens=cached,
        )

    def _read(self, token_ids: tuple[int, ...]) -> tuple[tuple[float, ...], int]:
        """Return what the script says of these tokens, and how many of them are in a KV cache."""
        found = self._find(token_ids)
        if found is None:
            if self._unknown_label_logprobs is None:
                raise EngineRequestError(
                    "no stream has begun with the prompt of these tokens",
                    hint="A scripted engine evaluates only what it has streamed.",
                )
            return self._unknown_label_logprobs, 0
        stream, num_tokens = found
        unfinished = stream.open and not stream.finished
        if unfinished and not self.capabilities.evaluates_mid_generation:
            raise EngineRequestError("this engine does not evaluate mid-generation")
        cached = len(stream.call.prompt_ids) + stream.num_cached(num_tokens) if stream.open else 0
        return stream.response.label_logprobs_at(num_tokens), cached

    def _find(self, token_ids: tuple[int, ...]) -> tuple[_Stream, int] | None:
        """Return the stream that these tokens begin with, and how many of its tokens they hold."""
        with self._lock:
            for length in sorted({len(prompt) for prompt in self._begun}, reverse=True):
                begun = self._begun.get(token_ids[:length])
                if begun is not None:
                    rest = token_ids[length:]
                    found = max(begun, key=lambda stream: _fit(stream, stream.num_shared(rest)))
                    num_tokens = found.num_shared(rest)
                    found.evaluated_at.add(num_tokens)
                    return found, num_tokens
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError(f"the {self.capabilities.name} engine was closed")

    def _check_length(
        self, field: str, token_ids: tuple[int, ...], num_reserved_tokens: int
    ) -> None:
        check_token_ids(field, token_ids)
        check_length(
            len(token_ids), num_reserved_tokens, context_length=self.capabilities.context_length
        )

    async def aclose(self) -> None:
        """End everything; open streams raise EngineClosedError at their next step."""
        self._closed = True


def _fit(stream: _Stream, num_shared: int) -> tuple[int, bool, bool, bool, bool]:
    """How well a stream fits tokens that share a prefix with it; the greatest is the best.

    Of streams with the same tokens the one is meant that is live, stands right there, and was not
    evaluated there yet.
    """
    return (
        num_shared,
        stream.open,
        stream.response.knows(num_shared),
        stream.num_delivered == num_shared or stream.finished,
        num_shared not in stream.evaluated_at,
    )


_NUM_CODEPOINTS = 0x110000
_TURN_TOKENS = {"system": _NUM_CODEPOINTS, "user": _NUM_CODEPOINTS + 1}
_ASSISTANT = _NUM_CODEPOINTS + 2
_END = _NUM_CODEPOINTS + 3


class ScriptedChat:
    """A tokenizer and chat template with one token a character, and one at each turn's ends."""

    end_token_ids: frozenset[int] = frozenset({_END})
    """The token that ends a turn."""

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[int, ...]:
        """Render a conversation, and tools as plain JSON, with the assistant's turn opened.

        Raises:
            ConfigurationError: The conversation cannot be answered.
        """
        return self._prompt_ids(check_messages(messages), tools)

    def num_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """Return how many tokens a conversation takes in a prompt, wherever it ends."""
        return len(self._prompt_ids(messages, tools)) if messages else 0

    def _prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> tuple[int, ...]:
        if with_tools(messages, tools):
            messages = in_plain_turns(paired(messages), tools)
        turns = [self._turn(message.role, message.content) for message in messages]
        return (*(token for turn in turns for token in turn), _ASSISTANT)

    def _turn(self, role: str, content: str) -> tuple[int, ...]:
        return (_TURN_TOKENS.get(role, _ASSISTANT), *map(ord, content), _END)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a response's text, without an end token."""
        return tuple(map(ord, text))

    def decode(self, token_ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Return the text; the tokens of turns are no text, and left out in any case."""
        return "".join(chr(token) for token in token_ids if token < _NUM_CODEPOINTS)

    def follow_up_ids(self, text: str, *, closes_thought: bool = True) -> tuple[int, ...]:
        """Return the tokens that close an assistant turn, ask `text`, and open the next one.

        It has no thoughts to close.
        """
        return (_END, *self._turn("user", text), _ASSISTANT)

    def first_token_id(self, text: str) -> int:
        """Return the first character's token."""
        return ord(text[0])

    def response(
        self,
        text: str,
        prob_win_or_tie: float | Mapping[int, float] = 0.5,
        *,
        finish_reason: FinishReason = "stop",
        delay_s: float = 0.0,
        fail_after: int | None = None,
        error: EngineError | None = None,
    ) -> ScriptedResponse:
        """Return the response with this text.

        Args:
            text: One token a character.
            prob_win_or_tie: What its self-evaluations read, raw: everywhere the same, or by number
                of tokens, the whole length for the finished response.
            finish_reason: How it ends.
            delay_s: Seconds that pass before each chunk.
            fail_after: Generated tokens after which it fails; None: it does not.
            error: What it fails with.

        Raises:
            ConfigurationError: A probability is none.
        """
        return ScriptedResponse(
            token_ids=tuple(map(ord, text)),
            label_logprobs=(
                {at: label_logprobs_of(prob) for at, prob in prob_win_or_tie.items()}
                if isinstance(prob_win_or_tie, Mapping)
                else label_logprobs_of(prob_win_or_tie)
            ),
            finish_reason=finish_reason,
            delay_s=delay_s,
            fail_after=fail_after,
            error=error,
        )
