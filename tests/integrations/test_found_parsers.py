"""Calls and reasoning of a model with words of its own, where nobody names a parser."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from llama_index.core.tools import FunctionTool

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.llama_index import AdaptiveLLM
from selfeval_backend.chat import ChatTemplate
from selfeval_backend.engine.scripted import ScriptedEngine, ScriptedResponse, label_logprobs_of
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from tests.byte_tokenizer import byte_tokenizer

TURNS = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}"
    "<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}<end>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HERMES = TURNS.replace("CALL", "<tool_call>{{ c.function | tojson }}</tool_call>")
MISTRAL = TURNS.replace(
    "CALL", "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
)
OWN_WORDS = TURNS.replace("CALL", "DO {{ c.function.name }} WITH {{ c.function.arguments.mark }}")
THINKS = HERMES + "<think>"
CALL = '{"name": "double", "arguments": {"number": 4}}'


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def model_of(template: str, *texts: str, special: tuple[str, ...] = ()) -> SelfEvaluatingModel:
    """Return one that answers with these texts, the first of which it thinks best of."""
    tokenizer = byte_tokenizer()
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": list(special)})
    tokenizer.chat_template = template
    chat = ChatTemplate(tokenizer, name="double")
    script = [
        ScriptedResponse(
            token_ids=chat.response_ids(text),
            label_logprobs=label_logprobs_of(0.9 - place / 10),
        )
        for place, text in enumerate(texts)
    ]
    engine = ScriptedEngine(script, repeat=True, chunk_tokens=3)
    with pytest.warns(UserWarning, match="calibrated"):
        return SelfEvaluatingModel(name="double", engine=engine, chat=chat, config=SelfEvalConfig())


Asked = tuple[str, list[tuple[str, dict[str, Any]]]]


def by_langchain(model: SelfEvaluatingModel, **fields: Any) -> Asked:
    llm = ChatAdaptive.from_model(model, max_samples=1, **fields).bind_tools([double])
    message = llm.invoke("Twice four?")
    streamed: AIMessage = reduce(add, llm.stream("Twice four?"))  # type: ignore[arg-type]
    found = [(call["name"], call["args"]) for call in message.tool_calls]
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == found
    assert streamed.content == message.content
    return str(message.content), found


def by_llama_index(model: SelfEvaluatingModel, **fields: Any) -> Asked:
    llm = AdaptiveLLM.from_model(model, max_samples=1, **fields)
    tools = [FunctionTool.from_defaults(double)]
    response = llm.chat_with_tools(tools, user_msg="Twice four?")
    *_, last = llm.stream_chat_with_tools(tools, user_msg="Twice four?")
    found = [
        [
            (call.tool_name, call.tool_kwargs)
            for call in llm.get_tool_calls_from_response(one, error_on_no_tool_call=False)
        ]
        for one in (response, last)
    ]
    assert found[0] == found[1]
    assert last.message.content == response.message.content
    return response.message.content or "", found[0]


every_framework = pytest.mark.parametrize("ask", [by_langchain, by_llama_index])
Ask = Callable[..., Asked]


@every_framework
@pytest.mark.parametrize(
    ("template", "text", "special"),
    [
        (HERMES, f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>", ()),
        (HERMES, f"Let me see.\n{CALL}", ()),
        (HERMES, 'Let me see.\n{"name": "double", "parameters": {"number": 4}}', ()),
        (HERMES, f"Let me see. functools[{CALL}]", ()),
        (MISTRAL, 'Let me see.[TOOL_CALLS]double[ARGS]{"number": 4}', ("[TOOL_CALLS]", "[ARGS]")),
        (THINKS, f"Hm.</think>Let me see.<tool_call>{CALL}</tool_call>", ()),
    ],
)
def test_a_call_in_a_models_own_words_is_found(
    ask: Ask, template: str, text: str, special: tuple[str, ...]
) -> None:
    content, calls = ask(model_of(template, text, special=special))
    assert (content, calls) == ("Let me see.", [("double", {"number": 4})])


@every_framework
def test_text_is_what_it_was(ask: Ask) -> None:
    assert ask(model_of(HERMES, "Eight: 4 < 8, [x].")) == ("Eight: 4 < 8, [x].", [])
    special = ("[TOOL_CALLS]", "<|odd|>")
    assert ask(model_of(MISTRAL, "Eight<|odd|> it is.", special=special)) == ("Eight it is.", [])


@every_framework
def test_words_that_nothing_reads_are_refused_before_any_token(ask: Ask) -> None:
    model = model_of(OWN_WORDS, "DO double WITH 4")
    with pytest.raises(ConfigurationError) as caught:
        ask(model)
    assert caught.value.field == "tool_parser"
    assert isinstance(model.engine, ScriptedEngine) and model.engine.stream_calls == []
    assert ask(model, tool_parser="json") == ("DO double WITH 4", [])


def test_a_call_that_is_forced_needs_nothing_that_reads() -> None:
    model = model_of(OWN_WORDS, CALL)
    llm = ChatAdaptive.from_model(model, max_samples=1).bind_tools([double], tool_choice="any")
    assert [call["args"] for call in llm.invoke("Twice four?").tool_calls] == [{"number": 4}]
    assert ChatAdaptive.from_model(model, max_samples=1).invoke("Twice four?").content == CALL


def test_json_of_a_schema_is_drawn_as_before_by_a_model_that_thinks() -> None:
    llm = ChatAdaptive.from_model(model_of(THINKS, '{"a": 1}'), max_samples=1)
    schema = {"title": "A", "type": "object", "properties": {"a": {"type": "integer"}}}
    assert llm.with_structured_output(schema).invoke("x") == {"a": 1}


def test_reasoning_is_told_apart_unless_it_is_not_wanted() -> None:
    model = model_of(THINKS, "Hm.</think>Eight.")
    message = ChatAdaptive.from_model(model, max_samples=1).invoke("Twice four?")
    assert (message.content, message.additional_kwargs["reasoning_content"]) == ("Eight.", "Hm.")
    whole = ChatAdaptive.from_model(model, max_samples=1, reasoning_parser="none")
    assert whole.invoke("Twice four?").content == "Hm.</think>Eight."


def test_a_sample_whose_call_is_whole_wins_over_one_that_is_cut_off() -> None:
    cut = f"{CALL}\n" + CALL[:30]
    model = model_of(HERMES, cut, CALL)
    llm = ChatAdaptive.from_model(model, max_samples=2, adaptive=False).bind_tools([double])
    message = llm.invoke("Twice four?")
    assert (len(message.tool_calls), message.invalid_tool_calls) == (1, [])
    alone = ChatAdaptive.from_model(model_of(HERMES, cut), max_samples=1).bind_tools([double])
    message = alone.invoke("Twice four?")
    assert (len(message.tool_calls), len(message.invalid_tool_calls)) == (1, 1)
    assert message.response_metadata["best_of_n"]["valid"] is False
