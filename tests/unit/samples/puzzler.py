"""A script that answers held-out problems, right or wrong by the sample's seed."""

from __future__ import annotations

import random
from functools import cache
from itertools import islice

from selfeval_backend.engine.scripted import ScriptedChat, ScriptedResponse, StreamCall
from selfeval_backend.reference.problems import Problem, demonstrate, generate_problems


class Puzzler:
    """Right where the seed is even; sure of it before the first token.

    Args:
        delay_s: Seconds that pass before each chunk.
        unsure_at: Tokens at which it knows nothing yet, and says the same of every sample, as a
            model does of samples that begin alike; then it is sure at the end alone.
    """

    def __init__(self, delay_s: float = 0.0, *, unsure_at: tuple[int, ...] = ()) -> None:
        self._delay_s = delay_s
        self._unsure_at = unsure_at
        self._chat = ScriptedChat()

    def __call__(self, call: StreamCall) -> ScriptedResponse:
        """Return the sample of one call."""
        right = call.params.seed % 2 == 0
        problem = _problems()[self._chat.decode(call.prompt_ids)]
        shown = demonstrate(problem, random.Random(call.params.seed), right=right)
        prob = 0.95 if right else 0.05
        said = dict.fromkeys(self._unsure_at, 0.5) | {len(shown.text): prob}
        return self._chat.response(
            shown.text, said if self._unsure_at else prob, delay_s=self._delay_s
        )


@cache
def _problems() -> dict[str, Problem]:
    found = (p for seed in (0, 3) for p in islice(generate_problems("test", seed=seed), 50))
    return {problem.text: problem for problem in found}
