"""What a confidence gate buys an agent: accuracy and tokens, without one and with several.

    python benchmarks/agent_gate.py --problems 200 --seed 0
    python benchmarks/agent_gate.py --calculator --model build/reference/training/reference

An agent of LangChain answers held-out problems of the reference domain, without tools or with a
calculator. It is asked once for each policy of the gate, with the same seeds; so a call that
another policy has made before comes out of a cache, and counts what it paid for again. An agent
that calls its model too often, or fills its context, has not answered. ± is one standard error over
the problems.
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

from calculator import calculator
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage
from langgraph.errors import GraphRecursionError

from aic_integrations.langchain import ChatAdaptive, ConfidenceGate, gate_records
from selfeval_backend.errors import ContextLengthError
from selfeval_backend.reference.problems import Problem, generate_problems, reward

REFUSAL = "I do not know."
CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Result:
    """One problem."""

    answered: bool
    correct: bool
    tokens: int
    """In and out, of all calls of a model and all attempts; cached ones left out."""
    attempts: int
    """Calls of a model."""


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


def agents(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the agents to compare, by name."""
    tools = [calculator] if chosen.calculator else []
    llm = ChatAdaptive(model=chosen.model, max_samples=chosen.samples, seed=chosen.seed)
    strong = ChatAdaptive(
        model=chosen.model, max_samples=chosen.strong_samples, adaptive=False, seed=chosen.seed + 1
    )

    def gated(*on_low: Any, **settings: Any) -> Any:
        gate = ConfidenceGate(
            threshold=chosen.threshold, on_low=on_low, refusal=REFUSAL, **settings
        )
        return create_agent(llm, tools, middleware=[gate])

    return {
        "no gate": create_agent(llm, tools),
        "retry": gated("retry", "accept"),
        "escalate": gated("escalate", "accept", stronger=strong),
        "refuse": gated("refuse"),
        "retry, then refuse": gated("retry", "refuse"),
        "retry, then escalate": gated("retry", "escalate", "accept", stronger=strong),
        "retry twice": gated("retry", "accept", max_retries=2),
        "stronger model always": create_agent(strong, tools),
    }


async def answer(agent: Any, problem: Problem, room: asyncio.Semaphore, max_calls: int) -> Result:
    """Put one problem to an agent."""
    state: dict[str, Any] = {"messages": [("user", problem.text)]}
    # Of a step the agent takes its nodes, in turn, but for the one that starts it.
    config = {"recursion_limit": max_calls * (len(agent.nodes) - 1)}
    over = False
    async with room:
        try:
            # What was paid for until it gave up counts: so the states, and not the last one alone.
            async for each in agent.astream(state, config, stream_mode="values"):
                state = each
        except (GraphRecursionError, ContextLengthError):
            over = True
    said = [message for message in state["messages"] if isinstance(message, AIMessage)]
    text = "" if over else said[-1].text
    return Result(
        answered=not over and text != REFUSAL,
        correct=reward(problem, text) == 1.0,
        tokens=sum(num_tokens(message) for message in said),
        attempts=len(gate_records(state)) or len(said),
    )


def num_tokens(message: AIMessage) -> int:
    """Return the tokens that a message cost; of a gate's those of all attempts."""
    usage = message.usage_metadata
    if usage is None:
        raise ValueError(f"a message does not say what it cost: {message!r}")
    return usage["total_tokens"] - usage["input_token_details"]["cache_read"]


async def run(agent: Any, problems: Sequence[Problem], max_calls: int) -> list[Result]:
    """Put all problems to an agent, several at once."""
    room = asyncio.Semaphore(CONCURRENCY)
    return await asyncio.gather(*(answer(agent, each, room, max_calls) for each in problems))


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
    parser.add_argument("--model", default="reference", help="of both")
    parser.add_argument("--calculator", action="store_true", help="give the agents a calculator")
    parser.add_argument("--max-calls", type=int, default=16, help="of the model, a problem")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args()
    set_llm_cache(InMemoryCache())
    problems = list(islice(generate_problems("test", seed=chosen.seed), chosen.problems))
    print("| gate | accuracy | answered | accuracy of answered | tokens a problem | calls |")
    print("|---|---|---|---|---|---|")
    rows = []
    began = time.monotonic()
    for name, agent in agents(chosen).items():
        rows.append(summarize(name, asyncio.run(run(agent, problems, chosen.max_calls))))
        print(rows[-1], flush=True)
    if chosen.json:
        facts = {**vars(chosen), "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps({"rows": [asdict(row) for row in rows], **facts}))


if __name__ == "__main__":
    main()
