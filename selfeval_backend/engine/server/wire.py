"""What goes to a vLLM server and what comes back, as JSON: bodies of requests, answers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfeval_backend.engine.base import LabelLogprobs, SamplingParams
from selfeval_backend.engine.grammars import structured_outputs
from selfeval_backend.errors import EngineResponseError, SelfEvaluationError
from selfeval_backend.types import FinishReason

__all__ = [
    "Delta",
    "evaluation_body",
    "generation_body",
    "is_usage",
    "num_cached_tokens",
    "read_labels",
    "tokens_between_events",
]

_NEUTRAL: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""All that shapes a distribution beside the temperature. What a request leaves out a server takes
from its own reading of the model's generation_config.json, or from how it was started."""
_NEVER = -9000.0
"""Source: vLLM writes minus infinity as -9999.0."""
_TOKEN = "token_id:"
"""Source: vLLM's `return_tokens_as_token_ids` writes tokens as this and their id."""


def generation_body(
    model: str, prompt_ids: tuple[int, ...], params: SamplingParams, *, streamed: bool
) -> dict[str, Any]:
    """Return the request for a sample.

    Args:
        model: The name it is served under.
        prompt_ids: At least one token.
        params: How it is drawn.
        streamed: As events with their token ids; else as one answer, whose tokens stand in its
            log-probabilities too, for servers that do not know `return_token_ids`.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt_ids),
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        **_NEUTRAL,
        **params.shaping,
        "seed": params.seed,
        "stop_token_ids": sorted(params.stop_token_ids),
        "ignore_eos": True,  # what ends a sample is said by stop_token_ids alone
        "return_token_ids": True,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if params.logprobs or not streamed:
        body |= {"logprobs": 0, "return_tokens_as_token_ids": True}
    if params.grammar is not None:
        body["structured_outputs"] = structured_outputs(params.grammar)
    return body


def tokens_between_events(params: SamplingParams, *, most: int) -> int:
    """Return after how many tokens a server should send an event.

    One for every token costs the server and us more than generating it, where models are small or
    samples many. Events come with the first token and with every n-th after it, so of the numbers
    from half of `most` the one is taken that comes to the checkpoints with the least delay.
    """

    def delay(interval: int) -> int:
        return sum(-(at - 1) % interval for at in params.checkpoints)

    return min(range(most, most // 2, -1), key=delay)


def evaluation_body(
    model: str, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
) -> dict[str, Any]:
    """Return the request for the labels' log-probabilities after a sequence."""
    return {
        "model": model,
        "prompt": list(token_ids),
        "max_tokens": 1,
        "temperature": 0.0,
        **_NEUTRAL,
        "logprobs": 0,
        "logprob_token_ids": list(dict.fromkeys(label_ids)),
        "return_tokens_as_token_ids": True,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one event of a stream, or one whole answer, adds to a sample."""

    token_ids: list[int]
    logprobs: list[float]
    """One a token, if they were asked for."""
    finish_reason: FinishReason | None
    aborted: bool = False
    """Whether it is the last word of a request that was aborted by its name."""

    @classmethod
    def read(cls, event: Mapping[str, Any], *, with_logprobs: bool) -> Delta:
        """Read an event or an answer.

        Raises:
            EngineResponseError: It holds no token ids, or ends for a reason that is none.
        """
        try:
            (choice,) = event["choices"]
            token_ids = choice.get("token_ids")
            if token_ids is None:
                token_ids = _token_ids(choice.get("logprobs") or {})
            logprobs = choice["logprobs"]["token_logprobs"] if with_logprobs else []
            reason = choice.get("finish_reason")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineResponseError(
                "the server gives no token ids: adaptive sampling needs a vLLM that knows "
                f"return_token_ids or return_tokens_as_token_ids. It sent {str(event)[:200]}"
            ) from error
        if reason not in (None, "stop", "length", "abort"):
            raise EngineResponseError(f"the server ended a sample with finish_reason {reason!r}")
        aborted = reason == "abort"
        return cls(
            token_ids=token_ids,
            logprobs=logprobs,
            finish_reason=None if aborted else reason,
            aborted=aborted,
        )


def _token_ids(logprobs: Mapping[str, Any]) -> list[int]:
    """Read the tokens' ids where they stand for their texts."""
    return [int(str(token).removeprefix(_TOKEN)) for token in logprobs["tokens"]]


def is_usage(event: Mapping[str, Any]) -> bool:
    """Tell whether an event is the one behind the last token, which holds the usage alone."""
    return not event.get("choices") and "usage" in event


def num_cached_tokens(answer: Mapping[str, Any]) -> int:
    """Return the prompt tokens that were in the KV cache; 0 where the server does not say."""
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def read_labels(
    answer: Mapping[str, Any], label_ids: tuple[int, ...], *, num_tokens: int
) -> LabelLogprobs:
    """Read what an evaluation answered.

    Args:
        answer: To `evaluation_body`.
        label_ids: In the order that is wanted.
        num_tokens: Of the sequence.

    Raises:
        EngineResponseError: It holds no log-probabilities.
        SelfEvaluationError: It leaves a label out.
    """
    try:
        said: Mapping[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        found = [said.get(f"{_TOKEN}{label_id}") for label_id in label_ids]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineResponseError(
            f"the server sent no log-probabilities: {str(answer)[:200]}"
        ) from error
    missing = [i for i, value in zip(label_ids, found, strict=True) if value is None]
    if missing:
        raise SelfEvaluationError(
            f"the server gave no log-probability for the labels with token ids {missing}: it does "
            "not know logprob_token_ids. Use vLLM 0.32 or newer."
        )
    cached = num_cached_tokens(answer)
    return LabelLogprobs(
        logprobs=tuple(
            float("-inf") if value < _NEVER else value for value in found if value is not None
        ),
        computed_tokens=num_tokens - cached,
        cached_tokens=cached,
    )
