"""A conversation as one template takes it: no text is lost, and none is added.

What the template refuses is said in turns that it takes: the system's text in front of the user's
next, turns of one role joined, calls one at a time. Nothing is changed where it takes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from selfeval_backend.chat.habits import CallHabits, Habits, Turn
from selfeval_backend.chat.messages import Message
from selfeval_backend.chat.plain import json_text, plain_result

__all__ = ["conform", "turns_of"]


def conform(
    messages: Sequence[Message], habits: Habits, calls: CallHabits | None
) -> tuple[Message, ...]:
    """Return a conversation in turns that a template takes.

    Args:
        messages: In which calls and results are paired.
        habits: The template's.
        calls: How it takes calls; None: there are none in the conversation.
    """
    turns = list(messages)
    if calls is not None:
        turns = _with_calls(turns, habits, calls)
    turns = _with_system(turns, habits, native=_takes_system(turns, habits, calls))
    roles = [turn.role for turn in turns]
    if _repeats(roles) and not habits.runs:
        turns = _joined(turns)
    if next((role for role in roles if role != "system"), "user") != "user":
        turns = _user_first(turns, habits, calls)
    return tuple(turns)


def _repeats(roles: Sequence[str]) -> bool:
    """Tell whether the user or the assistant speaks twice in a row."""
    return any(one == other in ("user", "assistant") for one, other in pairwise(roles))


# Calls and results.


def _with_calls(turns: list[Message], habits: Habits, calls: CallHabits) -> list[Message]:
    steps: list[tuple[bool, Callable[[list[Message]], list[Message]]]] = [
        (calls.results_alone, _without_results_alone),
        (calls.text_beside_calls, partial(_with_calls_apart, runs=habits.runs)),
        (calls.several_calls, _one_call_a_turn),
        (calls.user_behind_result, _answered_results),
    ]
    for taken, step in steps:
        turns = turns if taken else step(turns)
    return turns


def _without_results_alone(turns: list[Message]) -> list[Message]:
    called: set[str] = set()
    kept = []
    for turn in turns:
        called |= {call.id for call in turn.tool_calls}
        alone = turn.role == "tool" and turn.tool_call_id not in called
        kept.append(plain_result(turn) if alone else turn)
    return kept


def _with_calls_apart(turns: list[Message], *, runs: bool) -> list[Message]:
    """Put text in a turn of its own, in front of the calls."""
    kept = []
    for turn in turns:
        if turn.tool_calls and turn.content.strip():
            kept.append(replace(turn, tool_calls=()))
            kept += [] if runs else [Message(role="user", content="")]  # so that turns alternate
            turn = replace(turn, content="")  # noqa: PLW2901  # what is left of it
        kept.append(turn)
    return kept


def _one_call_a_turn(turns: list[Message]) -> list[Message]:
    """Put each of several calls in a turn of its own, with its result behind it."""
    kept: list[Message] = []
    for place, turn in enumerate(turns):
        if turn.role == "tool" and any(turn is other for other in kept):
            continue
        if len(turn.tool_calls) < 2:
            kept.append(turn)
            continue
        results = [other for other in turns[place + 1 :] if other.role == "tool"]
        for number, call in enumerate(turn.tool_calls):
            content = turn.content if number == 0 else ""
            kept.append(replace(turn, content=content, tool_calls=(call,)))
            kept += [other for other in results if other.tool_call_id == call.id]
    return kept


def _answered_results(turns: list[Message]) -> list[Message]:
    """Let the assistant say nothing between a result and what the user says behind it."""
    kept: list[Message] = []
    for turn in turns:
        if kept and kept[-1].role == "tool" and turn.role == "user":
            kept.append(Message(role="assistant", content=""))
        kept.append(turn)
    return kept


# The system, and who speaks when.


def _takes_system(turns: Sequence[Message], habits: Habits, calls: CallHabits | None) -> bool:
    """Tell whether the template tells what the system says in front of such a conversation."""
    roles = {turn.role for turn in turns}
    if roles == {"system"}:
        return habits.system_alone and (calls is None or calls.system_alone)
    if turns[-1].role == "assistant" and not habits.system_before_assistant:
        return False
    return habits.system and (calls is None or calls.keeps_system)


def _with_system(turns: list[Message], habits: Habits, *, native: bool) -> list[Message]:
    num_leading = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
    leading, rest = turns[:num_leading], turns[num_leading:]
    if len(leading) > 1 and native and not habits.several_systems:
        leading = [_joint(leading)]
    if leading and not native:
        leading, rest = [], [*leading, *rest]
    if any(turn.role == "system" for turn in rest) and not (native and _takes_late(rest, habits)):
        rest = _told_by_user(rest)
    return [*leading, *rest]


def _takes_late(turns: Sequence[Message], habits: Habits) -> bool:
    """Tell whether the system may speak where it does; between two turns of one role it hardly may.

    Templates that want roles to alternate look past it.
    """
    alternates = not _repeats([turn.role for turn in turns if turn.role != "system"])
    return habits.late_system and (habits.runs or alternates)


def _told_by_user(turns: list[Message]) -> list[Message]:
    """Put what the system says in front of what the user says next, or into a turn of its own."""
    kept: list[Message] = []
    said: list[Message] = []
    for turn in turns:
        if turn.role == "system":
            said.append(turn)
        elif turn.role == "user" or (said and turn.role == "assistant"):
            own = [turn] if turn.role == "user" else []
            kept += [_joint([*said, *own], role="user")] if said else own
            kept += [] if own else [turn]
            said = []
        else:
            kept.append(turn)  # a result stays with its call
    return [*kept, _joint(said, role="user")] if said else kept


def _joint(turns: Sequence[Message], **changes: Any) -> Message:
    texts = [turn.content for turn in turns if turn.content]
    return replace(turns[-1], content="\n\n".join(texts), **changes)


def _joined(turns: list[Message]) -> list[Message]:
    """Make turns of the user, and of the assistant without calls, that follow each other one."""
    kept: list[Message] = []
    for turn in turns:
        if kept and kept[-1].role == turn.role and _is_text(turn) and _is_text(kept[-1]):
            texts = [text for text in (kept.pop().content, turn.content) if text]
            turn = replace(turn, content="\n".join(texts))  # noqa: PLW2901  # what it becomes
        kept.append(turn)
    return kept


def _is_text(turn: Message) -> bool:
    return turn.role in ("user", "assistant") and not turn.tool_calls


def _user_first(turns: list[Message], habits: Habits, calls: CallHabits | None) -> list[Message]:
    """Let the user say nothing before the assistant begins."""
    place = next(n for n, turn in enumerate(turns) if turn.role != "system")
    if habits.assistant_first and (calls is None or calls.assistant_first):
        return turns
    return [*turns[:place], Message(role="user", content=""), *turns[place:]]


# As templates take them.


def turns_of(messages: Sequence[Message], habits: Habits, calls: CallHabits | None) -> list[Turn]:
    """Return a conversation as the template's own turns: as OpenAI's API, but for its habits."""
    return [habits.in_parts(_turn(message, calls)) for message in messages]


def _turn(message: Message, calls: CallHabits | None) -> Turn:
    turn: Turn = {"role": message.role, "content": message.content}
    if message.tool_calls and calls is not None:
        turn["content"] = message.content or calls.empty_content
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": call.name,
                    "arguments": (
                        json_text(call.arguments)
                        if calls.arguments_as_text
                        else dict(call.arguments)
                    ),
                },
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        # Some templates join them to text, which None is not.
        turn |= {"tool_call_id": message.tool_call_id or "", "name": message.name or ""}
    return turn
