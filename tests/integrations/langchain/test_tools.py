"""Tools and structured output of `ChatAdaptive`: over a script, and on the reference model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.langchain.messages import to_messages
from selfeval_backend.chat import ToolCall
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import SelfEvaluatingModel, load_model
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def now() -> str:
    """Say what time it is."""
    return "noon"


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="The question.")
    punchline: str | None = None


class JokeDict(TypedDict):
    """A joke."""

    setup: str
    punchline: str


LlmFactory = Callable[..., ChatAdaptive]


@pytest.fixture
def make_llm(make_model: ModelFactory) -> LlmFactory:
    """Make a model that answers with these texts, the last of which is the best one."""

    def make(*texts: str, **engine: Any) -> ChatAdaptive:
        script = [CHAT.response(text, 0.3 + index / 10) for index, text in enumerate(texts)]
        model = make_model(script, repeat=True, **engine)
        return ChatAdaptive.from_model(model, adaptive=False, max_samples=len(texts))

    return make


def engine_of(llm: ChatAdaptive) -> ScriptedEngine:
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    return llm.backend.engine


def grammar_of(llm: ChatAdaptive) -> str | None:
    grammar = engine_of(llm).stream_calls[-1].params.grammar
    return None if grammar is None else grammar.json_schema


def prompt_of(llm: ChatAdaptive) -> str:
    return CHAT.decode(engine_of(llm).stream_calls[-1].prompt_ids)


# Tools.


def test_a_model_calls_a_tool_or_answers(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    message = llm.bind_tools([add, now]).invoke("What is 1 + 2?")
    (call,) = message.tool_calls
    assert (call["name"], call["args"], call["type"]) == ("add", {"a": 1, "b": 2}, "tool_call")
    assert call["id"]
    assert message.content == ""
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.response_metadata["best_of_n"]["valid"] is True
    assert grammar_of(llm) is None
    assert '"name": "now"' in prompt_of(llm)
    said = make_llm("Three.").bind_tools([add]).invoke("What is 1 + 2?")
    assert (said.content, said.tool_calls) == ("Three.", [])
    assert said.response_metadata["finish_reason"] == "stop"


def test_a_call_that_parses_wins(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL, '{"name": "add", "arguments": {"a": 1', '{"name": "div", "arguments": {}}')
    message = llm.bind_tools([add]).invoke("What is 1 + 2?")
    assert [call["name"] for call in message.tool_calls] == ["add"]
    assert message.response_metadata["best_of_n"]["num_invalid"] == 2


def test_where_no_call_parses_the_message_says_what_is_wrong(make_llm: LlmFactory) -> None:
    message = make_llm('{"name": "add", "arguments": {"a": 1}}').bind_tools([add]).invoke("x")
    (broken,) = message.invalid_tool_calls
    assert (broken["name"], broken["args"]) == ("add", '{"a": 1}')
    assert "lack b" in str(broken["error"])
    assert message.tool_calls == []


@pytest.mark.parametrize(
    ("tool_choice", "forces"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        (False, None),
        ("any", ("add", "now")),
        ("required", ("add", "now")),
        (True, ("add", "now")),
        ("add", ("add",)),
        ({"type": "function", "function": {"name": "add"}}, ("add",)),
    ],
    ids=str,
)
def test_the_choice_of_a_tool(
    make_llm: LlmFactory, tool_choice: Any, forces: tuple[str, ...] | None
) -> None:
    llm = make_llm(CALL)
    message = llm.bind_tools([add, now], tool_choice=tool_choice).invoke("What is 1 + 2?")
    grammar = grammar_of(llm)
    if forces is None:
        assert grammar is None
    else:
        assert grammar is not None
        assert [name for name in ("add", "now") if f'"{name}"' in grammar] == list(forces)
    is_none = tool_choice in ("none", False)
    assert bool(message.tool_calls) is not is_none
    assert ("Tools:" in prompt_of(llm)) is not is_none


def test_one_call_at_most(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    llm.bind_tools([add], tool_choice="any", parallel_tool_calls=False).invoke("x")
    assert '"array"' not in str(grammar_of(llm))
    llm.bind_tools([add], tool_choice="any").invoke("x")
    assert '"array"' in str(grammar_of(llm))


@pytest.mark.parametrize(
    ("use", "field"),
    [
        (lambda llm: llm.bind_tools([add], tool_choice="subtract"), "tool_choice"),
        (lambda llm: llm.bind_tools([add], tool_choice=3), "tool_choice"),
        (lambda llm: llm.bind_tools([], tool_choice="any"), "tool_choice"),
        (lambda llm: llm.bind_tools([add, add]).invoke("x"), "tools"),
        (lambda llm: llm.bind_tools([3]), "tools[0]"),
        (lambda llm: llm.bind_tools([{"type": "web_search"}]), "tools[0]"),
        (lambda llm: llm.invoke("x", tools=[add]), "tools[0]"),
        (lambda llm: llm.bind_tools([add]).invoke("x", response_format={}), "response_format"),
        (lambda llm: llm.invoke("x", response_format={"type": "xml"}), "response_format"),
        (lambda llm: llm.with_structured_output(3), "schema"),
        (lambda llm: llm.with_structured_output(None), "schema"),
        (lambda llm: llm.with_structured_output(Joke, method="magic"), "method"),
        (lambda llm: llm.bind_tools([add], max_samples=0).invoke("x"), "max_samples"),
        (lambda llm: llm.bind_tools([add], bogus=1).invoke("x"), "bogus"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_any_token(
    make_llm: LlmFactory, use: Callable[[ChatAdaptive], object], field: str
) -> None:
    llm = make_llm(CALL)
    with pytest.raises(ConfigurationError) as caught:
        use(llm)
    assert caught.value.field == field
    assert engine_of(llm).stream_calls == []


def test_no_tools_are_no_tools(make_llm: LlmFactory) -> None:
    assert make_llm("Three.").bind_tools([]).invoke("x").content == "Three."


def test_an_engine_without_grammars_says_so(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL, takes_grammars=False)
    assert llm.bind_tools([add]).invoke("x").tool_calls
    with pytest.raises(ConfigurationError, match="grammar"):
        llm.bind_tools([add], tool_choice="any").invoke("x")
    with pytest.raises(ConfigurationError, match="grammar"):
        llm.with_structured_output(Joke).invoke("x")


async def test_tools_asynchronously(make_llm: LlmFactory) -> None:
    message = await make_llm(CALL).bind_tools([add]).ainvoke("What is 1 + 2?")
    assert [call["name"] for call in message.tool_calls] == ["add"]


def test_a_stream_with_tools_is_one_chunk(make_llm: LlmFactory) -> None:
    (chunk,) = make_llm(CALL).bind_tools([add]).stream("What is 1 + 2?")
    assert [call["name"] for call in chunk.tool_calls] == ["add"]


def test_results_of_tools_go_back_to_the_model(make_llm: LlmFactory) -> None:
    llm = make_llm("Three.")
    asked: Any = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c1", "type": "tool_call"}
    block = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1, "b": 2}}
    messages = [
        HumanMessage("What is 1 + 2?"),
        AIMessage([{"type": "text", "text": "Well."}, block], tool_calls=[asked]),
        ToolMessage("3", tool_call_id="c1", name="add"),
    ]
    assert llm.bind_tools([add]).invoke(messages).content == "Three."
    _, said, result = to_messages(messages)
    assert said.content == "Well."
    assert said.tool_calls == (ToolCall(id="c1", name="add", arguments={"a": 1, "b": 2}),)
    assert (result.role, result.tool_call_id, result.name) == ("tool", "c1", "add")
    assert "Result of add: 3" in prompt_of(llm)


def test_a_call_that_was_none_stays_what_the_model_wrote() -> None:
    broken: Any = {"name": "add", "args": '{"a": 1', "id": None, "error": "?"}
    _, said, _ = to_messages(
        [
            HumanMessage("x"),
            AIMessage("", invalid_tool_calls=[broken]),
            HumanMessage("That is no call."),
        ]
    )
    assert (said.content, said.tool_calls) == ('{"a": 1', ())


# Structured output.

METHODS: tuple[Literal["json_schema", "function_calling", "json_mode"], ...] = (
    "json_schema",
    "function_calling",
    "json_mode",
)


def answer_by(method: str, value: dict[str, Any], name: str) -> str:
    return json.dumps({"name": name, "arguments": value} if method == "function_calling" else value)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_of_a_pydantic_class(make_llm: LlmFactory, method: Any) -> None:
    llm = make_llm(answer_by(method, {"setup": "Why?"}, "Joke"))
    joke = llm.with_structured_output(Joke, method=method).invoke("Tell a joke.")
    assert joke == Joke(setup="Why?")
    assert '"punchline"' in str(grammar_of(llm))
    assert ("Tools:" in prompt_of(llm)) is (method == "function_calling")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [JokeDict, Joke.model_json_schema()], ids=["dict", "schema"])
def test_an_answer_of_a_schema_is_a_dict(make_llm: LlmFactory, method: Any, schema: Any) -> None:
    value = {"setup": "Why?", "punchline": "So."}
    name = "JokeDict" if schema is JokeDict else "Joke"
    llm = make_llm(answer_by(method, value, name))
    assert llm.with_structured_output(schema, method=method).invoke("Tell a joke.") == value


def test_json_mode_without_a_schema_is_any_object(make_llm: LlmFactory) -> None:
    llm = make_llm('{"anything": [1]}')
    assert llm.with_structured_output(method="json_mode").invoke("x") == {"anything": [1]}


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}'])
def test_json_that_others_read_otherwise_is_no_output(make_llm: LlmFactory, text: str) -> None:
    with pytest.raises(OutputParserException, match="no JSON"):
        make_llm(text).with_structured_output(method="json_mode").invoke("x")


async def test_structured_output_asynchronously(make_llm: LlmFactory) -> None:
    llm = make_llm('{"setup": "Why?"}')
    assert await llm.with_structured_output(Joke).ainvoke("x") == Joke(setup="Why?")
    assert [chunk async for chunk in llm.with_structured_output(Joke).astream("x")] == [
        Joke(setup="Why?")
    ]


def test_the_raw_message_too(make_llm: LlmFactory) -> None:
    llm = make_llm('{"setup": "Why?"}').with_structured_output(Joke, include_raw=True)
    found = llm.invoke("x")
    assert isinstance(found, dict)
    assert found["parsed"] == Joke(setup="Why?")
    assert found["parsing_error"] is None
    assert found["raw"].response_metadata["best_of_n"]["confidence"] is not None


@pytest.mark.parametrize("method", METHODS)
def test_what_is_of_no_form_is_an_error_and_no_part_of_it_an_answer(
    make_llm: LlmFactory, method: Any
) -> None:
    llm = make_llm(answer_by(method, {"setup": "Why?"}, "Joke")[:-3])
    with pytest.raises(OutputParserException):
        llm.with_structured_output(JokeDict, method=method).invoke("x")
    found = llm.with_structured_output(Joke, method=method, include_raw=True).invoke("x")
    assert isinstance(found, dict)
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)


def test_what_pydantic_refuses_is_an_error(make_llm: LlmFactory) -> None:
    with pytest.raises(OutputParserException, match="Joke"):
        make_llm('{"setup": 3}').with_structured_output(Joke).invoke("x")


# On the reference model, which knows nothing of tools: what is valid is so by the grammar.


class Signs(BaseModel):
    """Signs of a sum."""

    first: Literal["+", "-"]
    count: int = Field(ge=0, le=99)


@tool
def sign(sign: Literal["+", "-"], times: Literal[1, 2, 3]) -> str:
    """Set a sign."""
    return sign * times


@pytest.fixture(scope="module")
def reference() -> Iterator[SelfEvaluatingModel]:
    model = load_model("reference", engine="transformers")
    yield model
    asyncio.run(model.aclose())


@pytest.mark.slow
@pytest.mark.parametrize("tool_choice", ["any", "sign"])
def test_the_reference_model_calls_what_it_must(
    reference: SelfEvaluatingModel, tool_choice: str
) -> None:
    llm = ChatAdaptive.from_model(reference, seed=0, max_samples=4)
    bound = llm.bind_tools([sign], tool_choice=tool_choice, parallel_tool_calls=False)
    message = bound.invoke("Use 3, 19 and 25 to make 41.")
    (call,) = message.tool_calls
    assert sign.invoke(call).content
    best_of_n = message.response_metadata["best_of_n"]
    assert best_of_n["valid"] is True
    assert best_of_n["num_invalid"] == 0
    assert best_of_n["confidence"] is not None
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_token_details"]["self_evaluation"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_reference_model_answers_in_a_schema(
    reference: SelfEvaluatingModel, method: Any
) -> None:
    llm = ChatAdaptive.from_model(reference, seed=0, adaptive=False, max_samples=4, prune_at=4)
    found = llm.with_structured_output(Signs, method=method).invoke("Use 3 and 19 to make 16.")
    assert isinstance(found, Signs)


@pytest.mark.slow
def test_a_schema_that_no_grammar_has_is_refused_before_any_token(
    reference: SelfEvaluatingModel,
) -> None:
    llm = ChatAdaptive.from_model(reference)
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(ConfigurationError, match="uniqueItems"):
        llm.with_structured_output(schema).invoke("x")
