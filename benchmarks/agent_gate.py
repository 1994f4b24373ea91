"""What a confidence gate buys an agent: accuracy and tokens, without one and with several.

    python benchmarks/agent_gate.py --problems 200 --seed 0

An agent of LangChain (no tools) answers held-out problems of the reference domain. It is asked
once for each policy of the gate, with the same seeds; so a call that another policy has made
before comes out of a cache, and counts what it paid for again. ± is one standard error over the
problems.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache

from aic_integrations.langchain import ChatAdaptive, ConfidenceGate, gate_records
from selfeval_backend.reference.problems import Problem, generate_problems, reward

REFUSAL = "I do not know."
CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Result:
    """One problem."""

    answered: bool
    correct: bool
    tokens: int
    """In and out, of all attempts, each token once; cached ones left out."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Row:
    """One policy over all problems."""

    name: str
    accuracy: float
    accuracy_se: float
    answered: float
    accuracy_of_answered: float | None
    accuracy_of_answered_se: float | None
    tokens: float
    tokens_se: float
    attempts: float

    def __str__(self) -> str:
        """Return one line of a Markdown table."""
        of_answered = (
            "-"
            if self.accuracy_of_answered is None or self.accuracy_of_answered_se is None
            else f"{self.accuracy_of_answered:.3f} ± {self.accuracy_of_answered_se:.3f}"
        )
        return (
            f"| {self.name} | {self.accuracy:.3f} ± {self.accuracy_se:.3f} | {self.answered:.3f} "
            f"| {of_answered} | {self.tokens:.0f} ± {self.tokens_se:.0f} | {self.attempts:.2f} |"
        )


def agents(threshold: float, samples: int, strong_samples: int, seed: int) -> dict[str, Any]:
    """Return the agents to compare, by name."""
    llm = ChatAdaptive(model="reference", max_samples=samples, seed=seed)
    strong = ChatAdaptive(
        model="reference", max_samples=strong_samples, adaptive=False, seed=seed + 1
    )

    def gated(*on_low: Any, **settings: Any) -> Any:
        gate = ConfidenceGate(threshold=threshold, on_low=on_low, refusal=REFUSAL, **settings)
        return create_agent(llm, middleware=[gate])

    return {
        "no gate": create_agent(llm),
        "retry": gated("retry", "accept"),
        "escalate": gated("escalate", "accept", stronger=strong),
        "refuse": gated("refuse"),
        "retry, then refuse": gated("retry", "refuse"),
        "retry, then escalate": gated("retry", "escalate", "accept", stronger=strong),
        "retry twice": gated("retry", "accept", max_retries=2),
        "stronger model always": create_agent(strong),
    }


async def answer(agent: Any, problem: Problem, room: asyncio.Semaphore) -> Result:
    """Put one problem to an agent."""
    async with room:
        state = await agent.ainvoke({"messages": [("user", problem.text)]})
    message = state["messages"][-1]
    usage = message.usage_metadata
    return Result(
        answered=message.text != REFUSAL,
        correct=reward(problem, message.text) == 1.0,
        tokens=usage["total_tokens"] - usage["input_token_details"]["cache_read"],
        attempts=max(1, len(gate_records(state))),
    )


async def run(agent: Any, problems: Sequence[Problem]) -> list[Result]:
    """Put all problems to an agent, several at once."""
    room = asyncio.Semaphore(CONCURRENCY)
    return await asyncio.gather(*(answer(agent, problem, room) for problem in problems))


def summarize(name: str, results: Sequence[Result]) -> Row:
    """Return the means over the problems, with their standard errors."""
    right = [float(result.correct) for result in results]
    answered = [float(result.correct) for result in results if result.answered]
    tokens = [float(result.tokens) for result in results]
    return Row(
        name=name,
        accuracy=statistics.fmean(right),
        accuracy_se=standard_error(right),
        answered=len(answered) / len(results),
        accuracy_of_answered=statistics.fmean(answered) if answered else None,
        accuracy_of_answered_se=standard_error(answered) if len(answered) > 1 else None,
        tokens=statistics.fmean(tokens),
        tokens_se=standard_error(tokens),
        attempts=statistics.fmean(result.attempts for result in results),
    )


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean."""
    return statistics.stdev(values) / float(len(values) ** 0.5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the problems and of the samples")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--samples", type=int, default=2, help="max_samples of the agent's model")
    parser.add_argument("--strong-samples", type=int, default=16, help="of the stronger one")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args()
    set_llm_cache(InMemoryCache())
    problems = list(islice(generate_problems("test", seed=chosen.seed), chosen.problems))
    print("| gate | accuracy | answered | accuracy of answered | tokens a problem | calls |")
    print("|---|---|---|---|---|---|")
    rows = []
    began = time.monotonic()
    for name, agent in agents(
        chosen.threshold, chosen.samples, chosen.strong_samples, chosen.seed
    ).items():
        rows.append(summarize(name, asyncio.run(run(agent, problems))))
        print(rows[-1], flush=True)
    if chosen.json:
        facts = {**vars(chosen), "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps({"rows": [asdict(row) for row in rows], **facts}))


if __name__ == "__main__":
    main()
