"""Beam search keeps what the model believes in, and counts what it draws."""

from __future__ import annotations

import pytest

from benchmarks.figures.beam_search import BeamSettings, beam_search
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, ScriptedResponse
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import SelfEvaluatingModel
from tests.conftest import ModelFactory

PROMPT = (1, 2, 3)


def pieces(chat: ScriptedChat) -> list[ScriptedResponse]:
    """Round one: "ab" is hopeless, "cd" is not. Round two continues "cd" twice, to its end."""
    return [
        chat.response("ab", 0.1, finish_reason="length"),
        chat.response("cd", 0.8, finish_reason="length"),
        chat.response("e", 0.3),
        chat.response("f", 0.9),
    ]


def make(make_model: ModelFactory, chat: ScriptedChat) -> SelfEvaluatingModel:
    drawn = iter(pieces(chat))
    return make_model(lambda _: next(drawn))


async def test_the_most_promising_prefix_goes_on(
    make_model: ModelFactory, chat: ScriptedChat
) -> None:
    model = make(make_model, chat)

    best, usage = await beam_search(model, PROMPT, BeamSettings(width=1, branch=2, step=2), seed=0)

    assert chat.decode(best.token_ids) == "cdf"
    assert best.finished
    assert best.prob_win_or_tie == pytest.approx(0.9)
    assert usage.generated_tokens == 2 + 2 + 2 + 2  # each "e" and "f" with its end token
    assert usage.self_evaluations == 4
    assert usage.prompt_tokens == 3 + 3 + 5 + 5
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    assert engine.num_open == 0
    assert [call.prompt_ids for call in engine.stream_calls[2:]] == [(*PROMPT, *map(ord, "cd"))] * 2


async def test_rounds_have_an_end(make_model: ModelFactory, chat: ScriptedChat) -> None:
    model = make_model(lambda _: chat.response("ab", 0.5, finish_reason="length"))

    best, usage = await beam_search(
        model, PROMPT, BeamSettings(width=2, branch=1, step=2, max_rounds=3), seed=0
    )

    assert not best.finished
    assert chat.decode(best.token_ids) == "ababab"
    assert usage.generated_tokens == 2 * 3 * 2


@pytest.mark.parametrize("field", ["width", "branch", "step", "max_rounds"])
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        BeamSettings(**{"width": 1, "branch": 1, "step": 1} | {field: 0})
