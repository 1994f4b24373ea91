"""Records as an engine: the loop itself, over samples that were drawn before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse
from selfeval_backend.samples.records import SampleRecord

__all__ = ["replay_engine"]


def replay_engine(
    recorded: Mapping[tuple[int, ...], Sequence[SampleRecord]],
    *,
    label_ids: tuple[int, ...] | None = None,
) -> ScriptedEngine:
    """Return an engine that hands out recorded samples, and counts tokens as a live one does.

    Samples of a prompt are handed out in the order in which they are asked for, whatever their
    temperature. A `max_tokens` below a sample's length cuts it, and its end can then be evaluated
    only where something was recorded. Log-probabilities are not kept one by one: their sum is
    spread evenly.

    Args:
        recorded: Samples of each prompt, in order, by the prompt's token ids.
        label_ids: Labels that were recorded, in order; None: whatever is asked for.

    Raises:
        ConfigurationError: A record's counts do not fit together.
    """
    return ScriptedEngine(
        {ids: [_response(sample) for sample in samples] for ids, samples in recorded.items()},
        name="replay",
        label_ids=label_ids,
        takes_grammars=False,
    )


def _response(sample: SampleRecord) -> ScriptedResponse:
    logprobs = None
    if sample.sum_logprob is not None:
        share = sample.sum_logprob / max(1, sample.num_generated_tokens)
        logprobs = (share,) * sample.num_generated_tokens
    return ScriptedResponse(
        token_ids=sample.token_ids,
        label_logprobs=dict(sample.label_logprobs),
        finish_reason=sample.finish_reason,
        num_generated_tokens=sample.num_generated_tokens,
        logprobs=logprobs,
    )
