"""Samples as child runs of a model's run, for LangChain's tracers: LangSmith, MLflow and others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables.config import ensure_config, get_async_callback_manager_for_config

from aic_integrations.langchain.progress import RunManager
from selfeval_backend.model import Answer
from selfeval_backend.telemetry import sample_events
from selfeval_backend.types import Accept

__all__ = ["tell_samples"]

_ASKED = ("aic.sample.index", "gen_ai.request.temperature")
"""Attributes of a sample that were known before it was drawn: the inputs of its run."""


async def tell_samples(
    run_manager: RunManager | None, answer: Answer, texts: list[str] | None
) -> None:
    """Tell LangChain's handlers of each sample as of a run with its inputs and outputs.

    Names are those of `selfeval_backend.telemetry`. The runs are of the kind "chain" and carry no
    usage: what was paid for stands on the model's own run, once. All are told when the answer is
    there, so their times say nothing.

    Args:
        run_manager: Of the model's run, whose children they are; None: of the run around it, if
            there is one.
        answer: Whose samples they are.
        texts: Of the samples, in order of drawing; None: left out.
    """
    manager = _children_of(run_manager)
    if manager is None or not manager.handlers:
        return
    for index, (inputs, outputs) in enumerate(_described(answer, texts)):
        run = await manager.on_chain_start(None, inputs, name=f"sample {index}")
        await run.on_chain_end(outputs)


def _children_of(run_manager: RunManager | None) -> AsyncCallbackManager | None:
    if run_manager is None:
        around = get_async_callback_manager_for_config(ensure_config())
        return around if around.parent_run_id is not None else None
    # All that heard of the run, the model's own too: samples are its parts.
    return AsyncCallbackManager(
        handlers=list(run_manager.handlers),
        parent_run_id=run_manager.run_id,
        tags=list(run_manager.inheritable_tags),
        metadata=dict(run_manager.inheritable_metadata),
    )


def _described(
    answer: Answer, texts: list[str] | None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the inputs and outputs of each sample's run."""
    events = answer.outcome.trace.events
    accepted = {e.decision.sample for e in events if isinstance(e.decision, Accept)}
    told = sample_events(answer.summary(texts=texts), content=texts is not None)
    by_sample = groupby(told, key=lambda event: event.attributes["aic.sample.index"])
    for sample, (_, of_sample) in zip(answer.outcome.samples, by_sample, strict=True):
        about, *evaluations = (dict(event.attributes) for event in of_sample)
        inputs = {name: about.pop(name) for name in _ASKED}
        if sample.confidence is not None:
            about["aic.confidence"] = sample.confidence
        about["aic.sample.accepted"] = sample.index in accepted
        yield inputs, {**about, "evaluations": evaluations}
