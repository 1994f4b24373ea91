"""Calls of tools and their results, paired: whatever ids a conversation came with."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfeval_backend.chat.messages import Message, ToolCall

__all__ = ["paired"]

_LETTERS = string.ascii_letters + string.digits
_NINE = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(slots=True)
class _Call:
    """A call that results may refer to."""

    given_id: str
    call: ToolCall
    answered: bool = False

    def answers_to(self, message: Message) -> bool:
        """Tell whether a result without a call of its id may be this one's."""
        unnamed = not message.tool_call_id or not self.given_id
        return not self.answered and unnamed and message.name in (None, "", self.call.name)


def paired(messages: Sequence[Message], *, nine_letters: bool = False) -> tuple[Message, ...]:
    """Return a conversation in which every call has an id of its own, and its result has it too.

    Ids that are missing, or that a call before has, are made anew: from where they stand, so that
    the same conversation has the same prompt. A result without a name gets that of its call.

    Args:
        messages: The conversation, as it came.
        nine_letters: Whether ids must have nine letters or digits; those that have not are replaced
            with their results'.
    """
    pairing = _Pairing(nine_letters=nine_letters)
    return tuple(pairing.turn(message, place) for place, message in enumerate(messages))


class _Pairing:
    """What is known of a conversation's calls, up to a turn."""

    def __init__(self, *, nine_letters: bool) -> None:
        self._nine_letters = nine_letters
        self._turns: list[list[_Call]] = []
        self._used: set[str] = set()

    def turn(self, message: Message, place: int) -> Message:
        """Return the next turn with its ids."""
        if message.tool_calls:
            calls = [
                _Call(
                    given_id=call.id, call=replace(call, id=self._id(call.id, f"{place} {index}"))
                )
                for index, call in enumerate(message.tool_calls)
            ]
            self._turns.append(calls)
            return replace(message, tool_calls=tuple(each.call for each in calls))
        return self._result(message, place) if message.role == "tool" else message

    def _result(self, message: Message, place: int) -> Message:
        found = self._call_of(message)
        if found is None:
            return replace(message, tool_call_id=self._id(message.tool_call_id, str(place)))
        found.answered = True
        name = message.name or found.call.name
        return replace(message, tool_call_id=found.call.id, name=name)

    def _call_of(self, message: Message) -> _Call | None:
        """Return the call that a result is of: the latest of its id that is not answered."""
        calls = [call for turn in reversed(self._turns) for call in turn]
        of_id = [call for call in calls if call.given_id and call.given_id == message.tool_call_id]
        waiting = [call for call in of_id if not call.answered]
        likely = [call for call in calls if call.answers_to(message)]
        return next(iter([*waiting, *of_id, *likely]), None)

    def _id(self, given: str | None, place: str) -> str:
        """Return what is given if it can stand, else an id that nothing else has."""
        fits = bool(given) and (not self._nine_letters or _NINE.fullmatch(given or ""))
        made = given if fits and given not in self._used else None
        attempt = 0
        while made is None or made in self._used:
            made = _nine_letters_of(f"{given or ''} {place} {attempt}")
            attempt += 1
        self._used.add(made)
        return made


def _nine_letters_of(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)
