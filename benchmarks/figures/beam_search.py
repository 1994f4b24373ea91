"""An experiment: beam search over prefixes, steered by self-evaluation.

Every round draws some continuations of each kept prefix, asks the model of each whether starting
over would be better, and keeps the most promising ones. It is no policy: a policy cannot fork a
sample, and forking is what this is about. So it talks to an engine itself, and stays out of what
answers users unless it proves worth it (``docs/results.md``).

Source: stepwise beam search with self-evaluation, Xie et al. 2023, arXiv 2305.00633; here the
self-evaluation is prob_win_or_tie, steps are tokens, and the beam is not sampled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from selfeval_backend.controller import derive_seed
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.metrics import PromptResult
from selfeval_backend.evaluation.tasks import TaskItem
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.types import Usage

__all__ = ["BeamSettings", "Prefix", "beam_answer", "beam_search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """How wide and how deep.

    Raises:
        ConfigurationError: A value is below 1.
    """

    width: int
    """Prefixes that are kept each round."""
    branch: int
    """Continuations drawn of each."""
    step: int
    """Tokens of a continuation."""
    max_rounds: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("width", "branch", "step", "max_rounds"):
            if (value := getattr(self, name)) < 1:
                raise ConfigurationError(name, value, "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A response, finished or not."""

    token_ids: tuple[int, ...]
    finished: bool
    prob_win_or_tie: float


async def beam_search(
    model: SelfEvaluatingModel, prompt_ids: tuple[int, ...], settings: BeamSettings, *, seed: int
) -> tuple[Prefix, Usage]:
    """Return the finished response that the model thinks best, and what was paid.

    Prefixes that are computed anew because their stream was closed are in `prompt_tokens`: an
    engine with a prefix cache does not pay for them, so they are not counted as generated.

    Args:
        model: Draws and evaluates.
        prompt_ids: The rendered prompt.
        settings: Width and depth.
        seed: Of all continuations.

    Raises:
        EngineError: The engine failed.
    """
    kept = [Prefix(token_ids=(), finished=False, prob_win_or_tie=0.0)]
    finished: list[Prefix] = []
    usage, num_drawn = Usage(), 0
    for round_number in range(settings.max_rounds):
        # The first round has one prefix, and is as wide as the others.
        copies = settings.branch * (settings.width if round_number == 0 else 1)
        parents = [prefix for prefix in kept for _ in range(copies)]
        seeds = [derive_seed(seed, num_drawn + i) for i in range(len(parents))]
        num_drawn += len(parents)
        drawn = await asyncio.gather(
            *(
                _continue(model, prompt_ids, prefix, settings, one_seed)
                for prefix, one_seed in zip(parents, seeds, strict=True)
            )
        )
        usage = sum((paid for _, paid in drawn), usage)
        finished += [prefix for prefix, _ in drawn if prefix.finished]
        running = sorted(
            (prefix for prefix, _ in drawn if not prefix.finished),
            key=lambda prefix: -prefix.prob_win_or_tie,
        )
        # A finished response takes its place in the beam for good.
        kept = running[: max(0, settings.width - len(finished))]
        if not kept:
            break
    return max(finished or kept, key=lambda prefix: prefix.prob_win_or_tie), usage


async def _continue(
    model: SelfEvaluatingModel,
    prompt_ids: tuple[int, ...],
    prefix: Prefix,
    settings: BeamSettings,
    seed: int,
) -> tuple[Prefix, Usage]:
    """Draw one continuation, and evaluate it while its KV cache is there."""
    before = prompt_ids + prefix.token_ids
    params = SamplingParams(
        temperature=settings.temperature,
        max_tokens=settings.step,
        seed=seed,
        stop_token_ids=model.chat.end_token_ids,
    )
    usage = Usage(prompt_tokens=len(before))
    token_ids, ended = prefix.token_ids, False
    stream = model.engine.stream(before, params)
    try:
        async for chunk in stream:
            token_ids += chunk.token_ids
            ended = chunk.finish_reason == "stop"
            usage += Usage(
                generated_tokens=chunk.num_generated_tokens,
                cached_prompt_tokens=chunk.cached_prompt_tokens,
            )
            if chunk.finish_reason is not None:
                break
        judged = await model.evaluator.judge(model.engine, prompt_ids, token_ids, final=ended)
    finally:
        await stream.aclose()
    found = replace(
        prefix,
        token_ids=token_ids,
        finished=ended,
        prob_win_or_tie=judged.evaluation.prob_win_or_tie,
    )
    return found, usage + judged.usage


async def beam_answer(
    model: SelfEvaluatingModel, item: TaskItem, settings: BeamSettings, *, seed: int
) -> PromptResult:
    """Answer one prompt by beam search; `num_samples` is how many continuations ran at once."""
    prompt_ids = model.chat.prompt_ids(item.messages)
    best, usage = await beam_search(model, prompt_ids, settings, seed=seed)
    return PromptResult(
        reward=item.reward(model.chat.decode(best.token_ids).strip()),
        num_samples=settings.width * settings.branch,
        generated_tokens=usage.generated_tokens,
        self_evaluation_tokens=usage.self_evaluation_tokens,
    )
