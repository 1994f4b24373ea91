"""Stop strings: found whatever tokens and chunks they fall into, and never shown."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfeval_backend.chat import Message, StopStrings
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
ALPHABET = st.text(alphabet="abé", max_size=40)
MERGED = {0x200000: "ab", 0x200001: "ba", 0x200002: ""}
"""Tokens of several characters, and one of none."""


def decode(token_ids: Sequence[int]) -> str:
    return "".join(MERGED.get(token) if token in MERGED else chr(token) for token in token_ids)  # type: ignore[misc]  # always text


TOKENS = st.lists(st.sampled_from([*map(ord, "abé"), *MERGED]), max_size=40)


@given(
    tokens=TOKENS,
    strings=st.lists(st.text("abé", min_size=1, max_size=5), min_size=1, max_size=3),
    data=st.data(),
)
def test_the_first_token_that_completes_one_is_found(
    tokens: list[int], strings: list[str], data: st.DataObject
) -> None:
    stops = StopStrings(strings, decode=decode)
    wanted = next(
        (n for n in range(len(tokens) + 1) if any(s in decode(tokens[:n]) for s in strings)), None
    )
    place, found = 0, None
    while place < len(tokens) and found is None:
        size = data.draw(st.integers(1, 9))
        found = stops.find_end(tokens[: place + size], num_new=min(size, len(tokens) - place))
        place += size
    assert found == wanted
    shown = stops.cut(decode(tokens))
    assert not any(string in shown for string in strings)
    assert decode(tokens).startswith(shown)


def test_the_earliest_string_cuts() -> None:
    stops = StopStrings(("yy", "x"), decode=decode)
    assert stops.cut("abxcyyd") == "ab"
    assert stops.cut("abyycxd") == "ab"
    assert stops.cut("ab") == "ab"


@pytest.mark.parametrize("pauses", [True, False])
@pytest.mark.parametrize("prune_at", [(), (3,), (6, 8), (7,)])
async def test_a_sample_ends_at_a_stop_string(
    make_model: ModelFactory, pauses: bool, prune_at: tuple[int, ...]
) -> None:
    text = "The sum\n\nObservation: made up, and long, and never to be seen by anybody at all."
    model = make_model(
        [CHAT.response(text, 0.9)],
        pauses_at_checkpoints=pauses,
        overshoot_tokens=0 if pauses else 3,
    )
    settings = model.settings({"stop": ("\nObservation",), "prune_at": prune_at, "max_samples": 1})
    answer = await model.answer([Message(role="user", content="?")], settings)
    (sample,) = answer.outcome.samples
    assert answer.text == "The sum"
    assert sample.finish_reason == "stop"
    assert len(sample.token_ids) == len("The sum\n\nObservation")
    assert sample.evaluation is not None
    assert sample.evaluation.final
    # Looked at every eight tokens; what ran on is paid for.
    assert sample.num_generated_tokens == 24 + (0 if pauses else 3)
    assert answer.outcome.usage.generated_tokens == sample.num_generated_tokens
    assert model.engine.num_open == 0  # type: ignore[attr-defined]  # the scripted engine's own


@pytest.mark.parametrize("stop", [("",), (3,), ["a"], "a"])
def test_bad_stop_strings_are_refused(make_model: ModelFactory, stop: object) -> None:
    if isinstance(stop, list):
        assert make_model([]).settings({"stop": stop}).stop == ("a",)
        return
    with pytest.raises(ConfigurationError, match="stop"):
        make_model([]).settings({"stop": stop})
