"""A calculator at hand: sums by a call, and puzzles by trying one choice of signs after another.

An agent that solves a puzzle calls with a guess, reads what it comes to, guesses anew where that is
not the target, and answers once every puzzle has been reached. Each step is an example: what came
before stands in the conversation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from reference_model.skills.base import Example, call_text, draw_key, whole
from reference_model.skills.tools import damaged, make_tool, opening
from reference_model.skills.words import identifier, number, word
from selfeval_backend.chat import Message, ToolCall, ToolSpec
from selfeval_backend.reference.problems import (
    Plan,
    Problem,
    Puzzle,
    Split,
    expression_of,
    generate_problems,
    plans_of,
)
from selfeval_backend.reference.task import answer_of

__all__ = ["draw_calculator"]

_MOST_MISSES = 4
"""Of one puzzle, before it is reached."""


def draw_calculator(rng: random.Random, split: Split) -> Example:
    """A sum, or a step of solving a puzzle, with a tool that calculates: see `Draw`."""
    tool, argument = _calculator(rng, split)
    if rng.random() < 0.25:
        return _draw_sum(rng, tool, argument)
    problem = next(generate_problems(split, seed=rng.getrandbits(32)))
    done = rng.randrange(len(problem.puzzles) + 1)
    tried = [_tried(rng, puzzle, is_reached=True) for puzzle in problem.puzzles[:done]]
    now = problem.puzzles[done] if done < len(problem.puzzles) else None
    plans = [plan for of_one in tried for plan in of_one]
    misses = [] if now is None else _tried(rng, now, is_reached=False)
    messages = (
        *opening(rng),
        Message(role="user", content=problem.text),
        *_steps([*plans, *misses], tool, argument),
    )
    keys = (tool.name, *(puzzle.key for puzzle in problem.puzzles))
    tools = _with_another(rng, split, tool)
    if now is None:
        reached = [of_one[-1] for of_one in tried]
        return Example(
            skill="calculator",
            messages=messages,
            tools=tools,
            keys=keys,
            right=whole(_final(reached), right=True),
            wrong=whole(_wrong_end(rng, problem, reached, tool, argument), right=False),
            want={"puzzle": answer_of(problem)},
        )
    hits, others = _reaching(now), [p for p in _missing(now) if p not in misses]
    wrong = call_text(tool.name, {argument: expression_of(rng.choice(others or misses))})
    if rng.random() < 0.35:
        some = [rng.choice(_missing(puzzle)) for puzzle in problem.puzzles]
        wrong = _final(some)
    return Example(
        skill="calculator",
        messages=messages,
        tools=tools,
        keys=keys,
        right=whole(call_text(tool.name, {argument: expression_of(rng.choice(hits))}), right=True),
        wrong=whole(wrong, right=False),
        want={
            "reach": now.target,
            "numbers": list(now.numbers),
            "name": tool.name,
            "argument": argument,
        },
    )


def _calculator(rng: random.Random, split: Split) -> tuple[ToolSpec, str]:
    """Return a tool that calculates, whatever it is called, and its one argument."""
    named = draw_key(rng, split, _calculator_name)
    argument = rng.choice(("expression", "expression", "sum", "formula", "text", "terms"))
    description = rng.choice(
        (
            f"Calculate the {argument}.",
            "Work out a sum of numbers.",
            f"Returns the value of the {argument}.",
            "Add and take away numbers.",
        )
    )
    schema = {
        "properties": {argument: {"type": "string"}},
        "required": [argument],
        "type": "object",
    }
    return ToolSpec(name=named, description=description, parameters=schema), argument


def _calculator_name(rng: random.Random) -> str:
    first = rng.choice(("calculator", "calculate", "compute", "calc", "evaluate"))
    made = rng.choice((word(rng), word(rng), "sum", "tool", "expression"))
    return identifier(rng, rng.choice(((first,), (first, made), (made, first))))


def _with_another(rng: random.Random, split: Split, tool: ToolSpec) -> tuple[ToolSpec, ...]:
    if rng.random() < 0.7:
        return (tool,)
    specs = [tool, make_tool(rng, split).spec]
    rng.shuffle(specs)
    return tuple(specs)


def _draw_sum(rng: random.Random, tool: ToolSpec, argument: str) -> Example:
    terms = [abs(number(rng)) for _ in range(rng.choice((2, 2, 3)))]
    signed = [terms[0], *(n if rng.random() < 0.6 else -n for n in terms[1:])]
    written = expression_of(tuple(signed))
    asked = rng.choice(
        (
            f"How much is {written}?",
            f"Work out {written}.",
            f"Calculate {written}",
            f"{written} = ?",
        )
    )
    right = call_text(tool.name, {argument: written})
    wrong = rng.choice(
        (call_text(tool.name, {argument: damaged(rng, written)}), str(sum(signed)), right[:-1])
    )
    return Example(
        skill="calculator",
        messages=(*opening(rng), Message(role="user", content=asked)),
        tools=(tool,),
        keys=(tool.name,),
        right=whole(right, right=True),
        wrong=whole(wrong, right=False),
        want={"call": {"name": tool.name, "arguments": {argument: written}}},
    )


def _reaching(puzzle: Puzzle) -> list[Plan]:
    return [plan for plan in plans_of(puzzle) if sum(plan) == puzzle.target]


def _missing(puzzle: Puzzle) -> list[Plan]:
    return [plan for plan in plans_of(puzzle) if sum(plan) != puzzle.target]


def _tried(rng: random.Random, puzzle: Puzzle, *, is_reached: bool) -> list[Plan]:
    """Return guesses that missed, no two the same, and the one that reached it if there is one."""
    misses = _missing(puzzle)
    count = min(rng.choices(range(_MOST_MISSES + 1), (5, 3, 2, 2, 1))[0], len(misses) - 1)
    hit = [rng.choice(_reaching(puzzle))] if is_reached else []
    return [*rng.sample(misses, max(count, 0)), *hit]


def _steps(plans: Sequence[Plan], tool: ToolSpec, argument: str) -> list[Message]:
    """Write what was tried, and what each came to."""
    steps: list[Message] = []
    for place, plan in enumerate(plans):
        call = ToolCall(
            id=f"call_{place}", name=tool.name, arguments={argument: expression_of(plan)}
        )
        steps += [
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content=str(sum(plan)), tool_call_id=call.id, name=tool.name),
        ]
    return steps


def _final(plans: Sequence[Plan]) -> str:
    return f"#### {', '.join(expression_of(plan) for plan in plans)}"


def _wrong_end(
    rng: random.Random, problem: Problem, plans: Sequence[Plan], tool: ToolSpec, argument: str
) -> str:
    spoiled, at = list(plans), rng.randrange(len(plans))
    spoiled[at] = rng.choice(_missing(problem.puzzles[at]))
    again = call_text(tool.name, {argument: expression_of(plans[at])})
    return rng.choice((_final(spoiled), _final(spoiled), again))
