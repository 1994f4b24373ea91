"""Recorded rollouts as an engine: policies are compared offline, exactly, and by the thousand.

Samples of a prompt are handed out in the order in which they are asked for, whatever their
temperature; so two policies see the same samples. Tokens are counted as a live engine counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfeval_backend.engine.base import Capabilities, LabelLogprobs, SampleStream, SamplingParams
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.types import FinishReason

__all__ = ["RecordedSample", "ReplayEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSample:
    """A finished sample, and its self-evaluations.

    Raises:
        ConfigurationError: Its counts do not fit together.
    """

    token_ids: tuple[int, ...]
    """The whole response, without its end token."""
    finish_reason: FinishReason
    num_generated_tokens: int
    """`token_ids`, and the end token if there was one."""
    label_logprobs: Mapping[int, tuple[float, ...]]
    """Natural log-probabilities of the labels, by number of tokens; the whole length is final."""
    logprobs: tuple[float, ...] | None = None
    """One for each generated token, under temperature 1."""
    sum_logprob: float | None = None
    """Their sum, where they were not kept one by one: a replay spreads it evenly."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if self.logprobs is not None and self.sum_logprob is not None:
            raise ConfigurationError(
                "sum_logprob", self.sum_logprob, "nothing where logprobs are given one by one"
            )
        self.response()

    def response(self) -> ScriptedResponse:
        """Return the script that repeats it.

        Raises:
            ConfigurationError: Its counts do not fit together.
        """
        logprobs = self.logprobs
        if logprobs is None and self.sum_logprob is not None:
            share = self.sum_logprob / max(1, self.num_generated_tokens)
            logprobs = (share,) * self.num_generated_tokens
        return ScriptedResponse(
            token_ids=self.token_ids,
            label_logprobs=self.label_logprobs,
            finish_reason=self.finish_reason,
            num_generated_tokens=self.num_generated_tokens,
            logprobs=logprobs,
        )


class ReplayEngine:
    """Hands out recorded samples.

    A `max_tokens` below a sample's length cuts it, and its end can then be evaluated only where
    something was recorded.

    Args:
        recordings: Samples of each prompt, in order, by the prompt's token ids.
        context_length: In `capabilities`.
        label_ids: Labels that were recorded, in order; None: whatever is asked for.
    """

    def __init__(
        self,
        recordings: Mapping[tuple[int, ...], Sequence[RecordedSample]],
        *,
        context_length: int = 1_000_000,
        label_ids: tuple[int, ...] | None = None,
    ) -> None:
        self._script = ScriptedEngine(
            {
                prompt_ids: [sample.response() for sample in samples]
                for prompt_ids, samples in recordings.items()
            },
            name="replay",
            context_length=context_length,
            label_ids=label_ids,
            takes_grammars=False,
        )

    @property
    def capabilities(self) -> Capabilities:
        """It evaluates mid-generation, at recorded positions, and pauses at checkpoints."""
        return self._script.capabilities

    @property
    def num_open(self) -> int:
        """Streams that have begun and are not closed."""
        return self._script.num_open

    def stream(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> SampleStream:
        """Repeat the next recorded sample of a prompt; see `Engine.stream`.

        Raises:
            EngineError: The recording is used up, or does not have this prompt.
        """
        return self._script.stream(prompt_ids, params)

    async def label_logprobs(
        self, token_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> LabelLogprobs:
        """Return what was recorded; see `Engine.label_logprobs`.

        Raises:
            EngineRequestError: The sample was not streamed.
            EngineResponseError: Nothing was recorded at this position; names those there are.
        """
        return await self._script.label_logprobs(token_ids, label_ids)

    async def aclose(self) -> None:
        """End everything; open streams raise EngineClosedError at their next step."""
        await self._script.aclose()
