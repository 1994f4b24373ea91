"""The answer's text as it comes: from when it is certain, and never another one's."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfeval_backend.chat import AnswerForm, JsonForm, Message, ToolForm, ToolSpec
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, ScriptedResponse
from selfeval_backend.errors import (
    ConfigurationError,
    EngineConnectionError,
    NoFinishedSampleError,
    StreamBrokenError,
)
from selfeval_backend.model import Answer, SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.sync import iterate_sync
from tests.conftest import ModelFactory

QUESTION = [Message(role="user", content="Use 3, 19 and 25 to make 41.")]
CHAT = ScriptedChat()


def respond(
    text: str, prob: float | dict[int, float] = 0.5, *, delay_s: float = 0.0
) -> ScriptedResponse:
    return CHAT.response(text, prob, delay_s=delay_s)


def stream(model: SelfEvaluatingModel, **given: object) -> AsyncGenerator[str | Answer, None]:
    return model.stream(QUESTION, model.settings({"seed": 1, **given}))


async def collect(model: SelfEvaluatingModel, **given: object) -> tuple[list[str], Answer]:
    items = [item async for item in stream(model, **given)]
    *pieces, answer = items
    assert isinstance(answer, Answer)
    assert isinstance(model.engine, ScriptedEngine) and model.engine.num_open == 0
    assert "".join(map(str, pieces)) == answer.text
    return [str(piece) for piece in pieces], answer


async def read(items: AsyncGenerator[str | Answer, None], into: list[str]) -> None:
    async for item in items:
        into += [str(item)]


async def test_one_sample_flows_at_once(make_model: ModelFactory) -> None:
    pieces, answer = await collect(make_model([respond("one two three")]), max_samples=1)
    assert pieces == ["one", " two", " thre", "e"]
    assert answer.text == "one two three"


async def test_it_flows_from_the_checkpoint_that_accepts(make_model: ModelFactory) -> None:
    model = make_model([respond("abcdefghijklmnop", {4: 0.9, 16: 0.7})] * 4)
    pieces, answer = await collect(model, prune_at=(4,), accept_above=0.8)
    assert pieces == ["abcd", "efgh", "ijkl", "mnop"]
    assert answer.outcome.stop_reason == "accepted"
    assert answer.outcome.confidence == pytest.approx(0.7)
    assert len(answer.outcome.samples) == 1


async def test_it_flows_from_where_the_others_are_pruned(make_model: ModelFactory) -> None:
    model = make_model([respond("aaaaaaaaaaaa", 0.3), respond("bbbbbbbbbbbb", 0.6)])
    given = {"max_samples": 2, "adaptive": False, "prune_at": (4,), "keep_fraction": 0.5}
    pieces, answer = await collect(model, **given)
    assert pieces == ["bbbb"] * 3
    assert answer.outcome.stop_reason == "max_samples"


async def test_else_the_chosen_text_comes_when_it_is_chosen(make_model: ModelFactory) -> None:
    model = make_model([respond("aaaaaaaaa", 0.3), respond(" bbbbbbbbb ", 0.6)])
    pieces, answer = await collect(model, max_samples=2, adaptive=False)
    assert pieces == ["bbbbbbbbb"]
    assert answer.outcome.best == 1


async def test_no_text_is_no_piece(make_model: ModelFactory) -> None:
    pieces, answer = await collect(make_model([respond("  ")]), max_samples=1)
    assert (pieces, answer.text) == ([], "")


async def test_stop_strings_are_never_shown(make_model: ModelFactory) -> None:
    for pauses in (True, False):
        model = make_model([respond("One. Two EN EN ENDING")], pauses_at_checkpoints=pauses)
        pieces, answer = await collect(model, max_samples=1, stop=("END",))
        assert answer.text == "One. Two EN EN"
        assert len(pieces) > 2


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=4, max_size=4),
    probs=st.lists(st.sampled_from((0.1, 0.5, 0.9)), min_size=4, max_size=4),
    prune_at=st.sampled_from(((), (4,), (4, 8))),
    accept_above=st.sampled_from((None, 0.8)),
    adaptive=st.booleans(),
    max_samples=st.integers(1, 4),
    pauses=st.booleans(),
)
def test_any_stream_gives_the_answer_of_answer(
    lengths: list[int],
    probs: list[float],
    prune_at: tuple[int, ...],
    accept_above: float | None,
    adaptive: bool,
    max_samples: int,
    pauses: bool,
) -> None:
    script = [
        respond(chr(97 + i) * n, p) for i, (n, p) in enumerate(zip(lengths, probs, strict=True))
    ]
    given = {"max_samples": max_samples, "adaptive": adaptive, "prune_at": prune_at, "seed": 1}
    if prune_at:
        given["accept_above"] = accept_above

    def model() -> SelfEvaluatingModel:
        engine = ScriptedEngine(script, pauses_at_checkpoints=pauses)
        with pytest.warns(UserWarning, match="not calibrated"):
            return SelfEvaluatingModel(name="x", engine=engine, chat=CHAT, config=SelfEvalConfig())

    _, streamed = asyncio.run(collect(model(), **given))
    plain = model()
    answer = asyncio.run(plain.answer(QUESTION, plain.settings(given)))
    assert streamed.text == answer.text
    assert streamed.outcome.best == answer.outcome.best
    assert streamed.outcome.stop_reason == answer.outcome.stop_reason
    if pauses:
        assert streamed.outcome.samples == answer.outcome.samples
        assert streamed.outcome.usage == answer.outcome.usage


# Tools and JSON.

TOOLS = (ToolSpec(name="add", description="", parameters={"type": "object", "properties": {}}),)
CALL = '{"name": "add", "arguments": {}}'


@pytest.mark.parametrize(
    ("text", "form", "pieces", "num_calls"),
    [
        ("it is forty", ToolForm(tools=TOOLS), ["it i", "s fo", "rty"], 0),
        (CALL, ToolForm(tools=TOOLS), [], 1),
        (f"Adding:\n```json\n{CALL}\n```", ToolForm(tools=TOOLS), ["Addi", "ng:"], 1),
        ("so `x` it is", ToolForm(tools=TOOLS), ["so", " `x` i", "t is"], 0),
        ("[1, 2]", ToolForm(tools=TOOLS), ["[1,", " 2]"], 0),
        (CALL, ToolForm(tools=TOOLS, choice="required"), [], 1),
        (CALL, ToolForm(tools=TOOLS, choice="none"), None, 0),
        ('{"a": 1}', JsonForm(), ['{"a"', ": 1}"], 0),
    ],
)
async def test_text_flows_as_far_as_it_can_be_no_call(
    make_model: ModelFactory,
    text: str,
    form: AnswerForm,
    pieces: list[str] | None,
    num_calls: int,
) -> None:
    model = make_model([respond(text)] * 2)
    settings_ = model.settings({"max_samples": 1, "seed": 1})
    *shown, answer = [item async for item in model.stream(QUESTION, settings_, form=form)]
    assert isinstance(answer, Answer) and answer.parsed is not None
    if pieces is not None:
        assert shown == pieces
    assert "".join(map(str, shown)) == answer.parsed.text
    plain = (await model.answer(QUESTION, settings_, form=form)).parsed
    assert plain is not None
    assert (answer.parsed.text, answer.parsed.valid) == (plain.text, plain.valid)
    assert len(answer.parsed.tool_calls) == num_calls


@given(st.lists(st.sampled_from(["```", "`", "{", "json\n", "\n", CALL, "a ", "[", "]"])))
def test_what_is_settled_stays_whatever_follows(parts: list[str]) -> None:
    whole = "".join(parts)
    form = ToolForm(tools=TOOLS)
    found = form.parse(whole.strip()).text.strip()
    for end in range(len(whole) + 1):
        assert found.startswith(form.settled(whole[:end]).strip())


# What goes wrong on the way.


async def test_text_that_cannot_be_taken_back_is_an_error(make_model: ModelFactory) -> None:
    failing = replace(
        respond("bbbbbbbbbbbb", {4: 0.9}), fail_after=10, error=EngineConnectionError("dropped")
    )
    model = make_model([respond("aa", 0.3), failing])
    pieces: list[str] = []
    items = stream(model, max_samples=2, prune_at=(4,), accept_above=0.8)
    with pytest.raises(StreamBrokenError, match="engine_error: dropped") as caught:
        await read(items, pieces)
    assert pieces == ["bbbb", "bbbb", "bb"]
    assert caught.value.answer == "aa"
    assert caught.value.trace.usage.generated_tokens == 3 + 10


async def test_a_sample_that_was_not_shown_yet_may_be_replaced(make_model: ModelFactory) -> None:
    failing = replace(respond("    bbbbbbbb", {4: 0.9}), fail_after=4)
    model = make_model([respond("aa", 0.3), failing])
    pieces, answer = await collect(model, max_samples=2, prune_at=(4,), accept_above=0.8)
    assert pieces == ["aa"]
    assert answer.outcome.stop_reason == "engine_error"


async def test_a_run_without_an_answer_is_its_error(make_model: ModelFactory) -> None:
    model = make_model([replace(respond("aaaaaaaaa"), fail_after=6)])
    with pytest.raises(NoFinishedSampleError):
        await collect(model, max_samples=1)


async def test_bad_input_is_refused_before_any_token(make_model: ModelFactory) -> None:
    model = make_model([respond("a")])
    with pytest.raises(ConfigurationError):
        [_ async for _ in model.stream([Message(role="user", content=" ")])]
    assert isinstance(model.engine, ScriptedEngine) and model.engine.stream_calls == []


# Leaving half-way.


def slow_model(make_model: ModelFactory) -> SelfEvaluatingModel:
    return make_model([respond("abcdefgh" * 20, delay_s=0.005)], chunk_tokens=1)


async def test_closing_ends_every_sample(make_model: ModelFactory) -> None:
    model = slow_model(make_model)
    items = stream(model, max_samples=1)
    assert await anext(items)
    assert isinstance(model.engine, ScriptedEngine) and model.engine.num_open == 1
    await items.aclose()
    assert model.engine.num_open == 0


async def test_cancelling_the_reader_ends_every_sample(make_model: ModelFactory) -> None:
    model = slow_model(make_model)
    seen: list[str] = []
    task = asyncio.create_task(read(stream(model, max_samples=1), seen))
    while not seen:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(model.engine, ScriptedEngine) and model.engine.num_open == 0


# From synchronous code.


def test_a_stream_is_read_from_synchronous_code(make_model: ModelFactory) -> None:
    model = make_model([respond("one two three")])
    *pieces, answer = iterate_sync(stream(model, max_samples=1))
    assert isinstance(answer, Answer)
    assert "".join(map(str, pieces)) == answer.text == "one two three"


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_a_synchronous_stream_that_is_left_ends_every_sample(
    make_model: ModelFactory, leave: str
) -> None:
    model = slow_model(make_model)
    items = iterate_sync(stream(model, max_samples=1))
    next(items)
    assert isinstance(model.engine, ScriptedEngine) and model.engine.num_open == 1
    if leave == "close":
        items.close()
    else:
        del items
        gc.collect()
    assert model.engine.num_open == 0


def test_an_error_reaches_synchronous_code(make_model: ModelFactory) -> None:
    model = make_model([replace(respond("aaaaaaaaa"), fail_after=6)])
    with pytest.raises(NoFinishedSampleError):
        list(iterate_sync(stream(model, max_samples=1)))


def test_a_stream_that_is_open_at_the_end_does_not_keep_the_process() -> None:
    code = """
from selfeval_backend.sync import iterate_sync
async def numbers():
    yield 1
    yield 2
items = iterate_sync(numbers())
print(next(items))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "1\n"
