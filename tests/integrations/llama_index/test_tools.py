"""Tools and structured output of `AdaptiveLLM`: over a script, and on the reference model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from aic_integrations.llama_index import AdaptiveLLM, collect_best_of_n
from aic_integrations.llama_index.messages import to_messages
from selfeval_backend.chat import ToolCall
from selfeval_backend.engine.scripted import ScriptedChat, StreamCall
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import SelfEvaluatingModel, load_model
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conftest import engine_of

CHAT = ScriptedChat()
CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
NOW = '{"name": "now", "arguments": {}}'


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """Say what time it is."""
    return "noon"


ADD, NOW_TOOL = FunctionTool.from_defaults(add), FunctionTool.from_defaults(now)


class Joke(BaseModel):
    """A joke."""

    setup: str
    kind: Literal["good", "bad"]


LlmFactory = Callable[..., AdaptiveLLM]


@pytest.fixture
def make_llm(make_model: ModelFactory) -> LlmFactory:
    """Make an LLM that answers with these texts, the last of which is the best one."""

    def make(*texts: str) -> AdaptiveLLM:
        script = [CHAT.response(text, 0.3 + index / 10) for index, text in enumerate(texts)]
        model = make_model(script, repeat=True)
        return AdaptiveLLM.from_model(model, adaptive=False, max_samples=len(texts))

    return make


def grammar_of(llm: AdaptiveLLM) -> str | None:
    grammar = engine_of(llm).stream_calls[-1].params.grammar
    return None if grammar is None else grammar.json_schema


def test_a_call_stands_in_the_message(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    response = llm.chat_with_tools([ADD, NOW_TOOL], user_msg="What is 1 + 2?")
    (block,) = response.message.blocks
    assert isinstance(block, ToolCallBlock)
    assert (block.tool_name, block.tool_kwargs) == ("add", {"a": 1, "b": 2})
    (selection,) = llm.get_tool_calls_from_response(response)
    assert (selection.tool_name, selection.tool_kwargs) == ("add", {"a": 1, "b": 2})
    assert selection.tool_id == block.tool_call_id
    assert '"name": "now"' in CHAT.decode(engine_of(llm).stream_calls[-1].prompt_ids)
    assert grammar_of(llm) is None
    assert llm.metadata.is_function_calling_model


def test_text_is_an_answer_too(make_llm: LlmFactory) -> None:
    llm = make_llm("Three.")
    response = llm.chat_with_tools([ADD], user_msg="What is 1 + 2?")
    assert response.message.content == "Three."
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="no call of a tool, but text alone"):
        llm.get_tool_calls_from_response(response)


def test_a_call_that_parses_wins(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL, '{"name": "add", "arguments": {"a": 1')
    response = llm.chat_with_tools([ADD], user_msg="What is 1 + 2?")
    assert len(llm.get_tool_calls_from_response(response)) == 1
    assert response.additional_kwargs["best_of_n"]["num_invalid"] == 1


def test_where_none_parses_the_error_says_why(make_llm: LlmFactory) -> None:
    llm = make_llm('{"name": "add", "arguments": {"a": 1}}')
    response = llm.chat_with_tools([ADD], user_msg="What is 1 + 2?")
    with pytest.raises(ValueError, match="cannot be read: its arguments lack b"):
        llm.get_tool_calls_from_response(response)


@pytest.mark.parametrize(
    ("keywords", "forced"),
    [
        ({}, ()),
        ({"tool_choice": "auto"}, ()),
        ({"tool_required": True}, ("add", "now")),
        ({"tool_choice": "required"}, ("add", "now")),
        ({"tool_choice": "add"}, ("add",)),
    ],
    ids=str,
)
async def test_a_forced_call_is_drawn_under_its_grammar(
    make_llm: LlmFactory, keywords: dict[str, Any], forced: tuple[str, ...]
) -> None:
    llm = make_llm(CALL)
    await llm.achat_with_tools([ADD, NOW_TOOL], user_msg="What is 1 + 2?", **keywords)
    grammar = grammar_of(llm)
    assert (grammar is not None) == bool(forced)
    assert all((f'"{name}"' in (grammar or "")) == (name in forced) for name in ("add", "now"))


def test_an_unknown_tool_is_refused(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    with pytest.raises(ConfigurationError, match="tool_choice: got 'div'"):
        llm.chat_with_tools([ADD], user_msg="hi", tool_choice="div")
    with pytest.raises(ConfigurationError, match="completion"):
        llm.complete("hi", tools=[ADD.metadata.to_openai_tool()])
    assert engine_of(llm).num_open == 0


async def test_predict_and_call(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    with collect_best_of_n() as collected:
        assert str(llm.predict_and_call([ADD], "What is 1 + 2?")) == "3"
        assert str(await llm.apredict_and_call([ADD], "What is 1 + 2?")) == "3"
    assert len(collected.calls) == 2


async def test_a_streamed_call_comes_as_a_whole(make_llm: LlmFactory) -> None:
    llm = make_llm(CALL)
    stream = await llm.astream_chat_with_tools([ADD], user_msg="What is 1 + 2?")
    responses = [response async for response in stream]
    (selection,) = llm.get_tool_calls_from_response(responses[-1])
    assert selection.tool_kwargs == {"a": 1, "b": 2}
    assert "".join(response.delta or "" for response in responses) == ""
    said = make_llm("Three.")
    deltas = [r.delta for r in said.stream_chat_with_tools([ADD], user_msg="What is 1 + 2?")]
    assert "".join(delta or "" for delta in deltas) == "Three."


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LlamaIndex's use of pydantic
async def test_an_agent_calls_and_answers(make_model: ModelFactory) -> None:
    def script(call: StreamCall) -> Any:
        asked = CHAT.decode(call.prompt_ids)
        return CHAT.response("It is noon." if "noon" in asked else NOW, 0.95)

    llm = AdaptiveLLM.from_model(make_model(script))
    agent = FunctionAgent(tools=[NOW_TOOL], llm=llm)
    memory = ChatMemoryBuffer.from_defaults(token_limit=10_000, tokenizer_fn=str.split)
    with collect_best_of_n() as collected:
        handler = agent.run("What time is it?", memory=memory)
        streamed = [e async for e in handler.stream_events() if isinstance(e, AgentStream)]
        output = await handler
    assert str(output) == "It is noon."
    assert "".join(event.delta for event in streamed) == "It is noon."
    assert output.raw["best_of_n"]["confidence"] == pytest.approx(0.95)
    assert len(collected.calls) == 2


async def test_structured_output_by_grammar(make_llm: LlmFactory) -> None:
    llm = make_llm('{"name": "Joke", "arguments": {"setup": "Why?", "kind": "good"}}')
    prompt = PromptTemplate("Tell a joke about {topic}.")
    joke = Joke(setup="Why?", kind="good")
    assert llm.structured_predict(Joke, prompt, topic="cats") == joke
    grammar = grammar_of(llm)
    assert grammar is not None and '"setup"' in grammar and '"good"' in grammar
    assert await llm.astructured_predict(Joke, prompt, topic="cats") == joke
    *_, last = llm.stream_structured_predict(Joke, prompt, topic="cats")
    assert last.model_dump() == joke.model_dump()
    assert grammar_of(llm) == grammar
    stream = await llm.astream_structured_predict(Joke, prompt, topic="cats")
    *_, last = [partial async for partial in stream]
    assert last.model_dump() == joke.model_dump()
    assert grammar_of(llm) == grammar
    structured = llm.as_structured_llm(Joke)
    assert structured.complete("Tell a joke.").raw == joke
    assert (await structured.achat([ChatMessage("Tell a joke.")])).raw == joke


def test_json_of_a_schema_as_text(make_llm: LlmFactory) -> None:
    llm = make_llm('{"setup": "Why?", "kind": "bad"}')
    asked = {"type": "json_schema", "json_schema": {"schema": Joke.model_json_schema()}}
    response = llm.complete("Tell a joke.", response_format=asked)
    assert Joke.model_validate_json(response.text).kind == "bad"
    assert grammar_of(llm) is not None


def test_turns_of_tools() -> None:
    conversation = to_messages(
        [
            ChatMessage("What is 1 + 2?"),
            ChatMessage(
                role=MessageRole.ASSISTANT,
                content=[
                    TextBlock(text="Let me see."),
                    ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs='{"a": 1}'),
                ],
            ),
            ChatMessage("3", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": "c1"}),
        ]
    )
    assert conversation[1].tool_calls == (ToolCall(id="c1", name="add", arguments={"a": 1}),)
    assert conversation[1].content == "Let me see."
    assert (conversation[2].role, conversation[2].tool_call_id) == ("tool", "c1")


@pytest.mark.parametrize("arguments", ["{", "[1]"])
def test_arguments_that_are_none_are_refused(arguments: str) -> None:
    block = ToolCallBlock(tool_name="add", tool_kwargs=arguments)
    with pytest.raises(ConfigurationError, match=r"messages\[0\].*add"):
        to_messages([ChatMessage(role="assistant", content=[block]), ChatMessage("hi")])


@pytest.fixture(scope="module")
def reference() -> Iterator[SelfEvaluatingModel]:
    """The reference model in this process."""
    model = load_model("reference", engine="transformers")
    yield model
    asyncio.run(model.aclose())


@pytest.mark.slow
def test_the_reference_model_under_a_grammar(reference: SelfEvaluatingModel) -> None:
    class Puzzle(BaseModel):
        """What is asked."""

        target: int
        kind: Literal["add", "take away"]

    llm = AdaptiveLLM.from_model(reference, max_samples=2, seed=0, max_tokens=60)
    prompt = PromptTemplate("{question}")
    puzzle = llm.structured_predict(Puzzle, prompt, question="Use 3, 19 and 25 to make 41.")
    assert isinstance(puzzle, Puzzle)
