"""What reads a model's calls and its reasoning, found by its tokenizer and chat template."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from selfeval_backend.chat import (
    ChatTemplate,
    ReasoningForm,
    ToolForm,
    ToolSpec,
    calls_of,
    load_tool_parser,
    reasoning_of,
)
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ConfigurationError, MissingDependencyError
from selfeval_backend.model import REFERENCE_FOLDER
from tests.byte_tokenizer import byte_tokenizer

ADD = ToolSpec(
    name="add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "why": {"type": "string"}},
        "required": ["a"],
    },
)
TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
PLAIN_TURN = "<|{{ m.role }}|>{{ m.content }}<end>"


def template(call: str, *, opening: str = "<|assistant|>") -> str:
    """Return a template that shows tools, and writes calls in this way."""
    return (
        TOOLS
        + "{% for m in messages %}{% if m.tool_calls %}<|assistant|>"
        + call
        + "<end>{% else %}"
        + PLAIN_TURN
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + opening
        + "{% endif %}"
    )


EACH = "{% for c in m.tool_calls %}{% set f = c.function %}"
IN_JSON = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
HERMES = EACH + "<tool_call>\n" + IN_JSON + "\n</tool_call>{% endfor %}"
LLAMA = EACH + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}' + "{% endfor %}"
MISTRAL = EACH + "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}{% endfor %}"
QWEN_CODER = (
    EACH + "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
)
PYTHONIC = (
    "[" + EACH + "{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{% endfor %}){% endfor %}]"
)
OWN_MARK = EACH + "<<call>>" + IN_JSON + "<</call>>{% endfor %}"
SHOWN_BY_PYTHON = EACH + '{"name": "{{ f.name }}", "arguments": {{ f.arguments }}}{% endfor %}'
WITHOUT_QUOTES = PYTHONIC.replace("{{ v | tojson }}", "{{ v }}")
OWN_WORDS = (
    EACH + "DO {{ f.name }} WITH {% for k, v in f.arguments.items() %}{{ k }} AS {{ v }};"
    "{% endfor %}{% endfor %}"
)


def chat_of(text: str, *, special: tuple[str, ...] = (), **attributes: Any) -> ChatTemplate:
    tokenizer = byte_tokenizer()
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": list(special)})
    tokenizer.chat_template = text
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return ChatTemplate(tokenizer, name="double")


def form_of(chat: ChatTemplate, name: str | None = None) -> ToolForm:
    return ToolForm(tools=(ADD,), parser=load_tool_parser(name, chat))


def found(form: ToolForm, chat: ChatTemplate, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls in a response, by way of its tokens."""
    ids = chat.response_ids(text)
    decoded = chat.decode(ids, keep_special_tokens=form.keeps_special_tokens)
    parsed = form.parse(decoded)
    assert parsed.valid
    return [(call.name, dict(call.arguments)) for call in parsed.tool_calls]


@pytest.mark.parametrize(
    ("calls", "response", "shown"),
    [
        (HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', "<tool_call>"),
        (LLAMA, '{"name": "add", "parameters": {"a": 1}}', '"parameters"'),
        (MISTRAL, '[TOOL_CALLS]add[ARGS]{"a": 1}', "[TOOL_CALLS]"),
        (QWEN_CODER, "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n"
         "</tool_call>", "<function="),
        (PYTHONIC, "[add(a=1)]", "[look_up_mark("),
        (SHOWN_BY_PYTHON, '{"name": "add", "arguments": {"a": 1}}', '"mark"'),
        (WITHOUT_QUOTES, "[add(a=1)]", "=the marked one"),
        (OWN_MARK, '<<call>>{"name": "add", "arguments": {"a": 1}}<</call>>', "<<call>>"),
    ],
    ids=["hermes", "llama", "mistral", "qwen coder", "pythonic", "repr", "str", "own mark"],
)  # fmt: skip
def test_the_form_that_a_template_gives_a_call_is_read(
    calls: str, response: str, shown: str
) -> None:
    chat = chat_of(template(calls))
    of_model = calls_of(chat)
    assert (of_model.source, shown in of_model.written) == ("chat template", True)
    form = form_of(chat)
    assert found(form, chat, response) == [("add", {"a": 1})]
    plain = '{"name": "add", "arguments": {"a": 1}}'
    assert found(form, chat, plain) == [("add", {"a": 1})], "models do not keep to their template"


def test_a_mark_that_is_a_special_token_is_kept_and_no_other_one_shows() -> None:
    chat = chat_of(template(MISTRAL), special=("[TOOL_CALLS]", "<|odd|>"))
    form = form_of(chat)
    assert form.keeps_special_tokens
    assert found(form, chat, '[TOOL_CALLS]add[ARGS]{"a": 1}') == [("add", {"a": 1})]
    said = chat.decode(chat.response_ids("One<|odd|> two."), keep_special_tokens=True)
    assert (form.parse(said).text, form.settled(said)) == ("One two.", "One two.")


def test_special_tokens_are_left_out_where_none_is_a_mark() -> None:
    assert not form_of(chat_of(template(HERMES), special=("<|odd|>",))).keeps_special_tokens


def test_a_form_that_nothing_reads_is_refused_and_the_way_out_is_named() -> None:
    chat = chat_of(template(OWN_WORDS))
    assert calls_of(chat).parser is None
    with pytest.raises(ConfigurationError, match="DO look_up_mark WITH") as caught:
        load_tool_parser(None, chat)
    assert caught.value.field == "tool_parser"
    assert '"json"' in str(caught.value)
    plain = form_of(chat, "json")
    assert found(plain, chat, '{"name": "add", "arguments": {"a": 1}}') == [("add", {"a": 1})]


def test_json_alone_leaves_other_forms_as_text() -> None:
    form = form_of(chat_of(template(HERMES)), "json")
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert form.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}" + PLAIN_TURN + "{% endfor %}<|assistant|>",
        TOOLS + "{% for m in messages %}" + PLAIN_TURN + "{% endfor %}<|assistant|>",
    ],
    ids=["no tools", "tools, and no calls"],
)
def test_a_template_without_calls_leaves_plain_json_and_known_marks(text: str) -> None:
    chat = chat_of(text)
    form = form_of(chat)
    for response in (
        '{"name": "add", "arguments": {"a": 1}}',
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
        'functools[{"name": "add", "arguments": {"a": 1}}]',
    ):
        assert found(form, chat, response) == [("add", {"a": 1})]


RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "thinking": {"open": "<mull>", "close": "</mull>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"DO (?P<name>\w+) WITH ",
            "close": "!",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"(?P<key>\w+) AS (?P<value>[^;]*);"},
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"content": "text"},
    },
}


@pytest.fixture
def described() -> ChatTemplate:
    return chat_of(
        template(OWN_WORDS.replace(";{%", ";{%").replace("{% endfor %}{% endfor %}",
                 "{% endfor %}!{% endfor %}")),
        response_template=RESPONSE_TEMPLATE,
    )  # fmt: skip


def test_a_tokenizers_response_template_comes_first(described: ChatTemplate) -> None:
    assert calls_of(described).source == "response template"
    form = form_of(described)
    parsed = form.parse("So.\nDO add WITH a AS 1;why AS 2;!\nDO add WITH a AS 3;!")
    assert [dict(c.arguments) for c in parsed.tool_calls] == [{"a": 1, "why": "2"}, {"a": 3}]
    assert (parsed.text, parsed.valid) == ("So.", True)
    assert found(form, described, '{"name": "add", "arguments": {"a": 1}}') == [("add", {"a": 1})]
    assert form.settled("So.\nDO ad") == "So.\n"


def test_a_call_of_a_response_template_that_is_cut_off_is_invalid(described: ChatTemplate) -> None:
    parsed = form_of(described).parse("DO add WITH a AS 1;!DO add WITH a AS 2;w")
    assert [dict(c.arguments) for c in parsed.tool_calls] == [{"a": 1}]
    assert len(parsed.invalid_tool_calls) == 1
    assert (parsed.text, parsed.valid) == ("", False)


def test_a_response_template_that_cannot_be_used_is_passed_over() -> None:
    broken = {"fields": {"tool_calls": {"open": "<c>", "content": "yaml"}}}
    assert calls_of(chat_of(template(HERMES), response_template=broken)).source == "chat template"


def test_without_vllm_its_common_parsers_are_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.tool_parsers", None)
    chat = chat_of(template(HERMES))
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert found(form_of(chat, "hermes"), chat, text) == [("add", {"a": 1})]
    with pytest.raises(MissingDependencyError, match=r"\[vllm\]"):
        load_tool_parser("step3", chat)


@pytest.mark.slow
def test_the_reference_model_is_read_as_before() -> None:
    chat = ChatTemplate.load(REFERENCE_FOLDER)
    of_model = calls_of(chat)
    assert of_model.parser is not None and not of_model.parser.keeps_special_tokens
    assert reasoning_of(chat) is None
    assert reasoning_of(ScriptedChat()) is None


THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{% endfor %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<end>"
    "{% endfor %}{# analysis #}<|start|>assistant"
)


@pytest.mark.parametrize(
    ("text", "special", "response"),
    [
        (THINKING, (), "<think>Hm.</think>41"),
        (THINKING + "<|assistant|><think>\n", (), "Hm.</think>41"),
        (THINKING.replace("</think>", "[/THINK]"), ("[THINK]", "[/THINK]"), "[THINK]Hm.[/THINK]41"),
        (PLAIN_TURN.join(("{% for m in messages %}", "{% endfor %}<think>")), (), "Hm.</think>41"),
        (
            HARMONY,
            ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>41",
        ),
    ],
)
def test_reasoning_is_found_by_its_signs(text: str, special: Any, response: str) -> None:
    chat = chat_of(text, special=special)
    parser = reasoning_of(chat)
    assert parser is not None
    form = ReasoningForm(parser=parser)
    decoded = chat.decode(
        chat.response_ids(response), keep_special_tokens=form.keeps_special_tokens
    )
    parsed = form.parse(decoded)
    assert (parsed.reasoning, parsed.text, parsed.valid) == ("Hm.", "41", True)
    for length in range(len(decoded) + 1):
        assert "41".startswith(form.settled(decoded[:length]).strip())
        assert "Hm.".startswith(form.settled_reasoning(decoded[:length]).strip())


def test_the_reasoning_of_a_response_template_is_found(described: ChatTemplate) -> None:
    parser = reasoning_of(described)
    assert parser is not None
    assert parser.split("<mull>Hm.</mull>41").reasoning == "Hm."


def test_without_a_sign_there_is_no_reasoning() -> None:
    assert reasoning_of(chat_of(template(HERMES))) is None


def test_calls_stand_behind_the_channel_of_reasoning() -> None:
    chat = chat_of(HARMONY)
    parser = reasoning_of(chat)
    assert parser is not None
    form = ReasoningForm(parser=parser, inner=form_of(chat))
    for header in (
        "<|channel|>commentary to=functions.add <|constrain|>json",
        " to=functions.add<|channel|>commentary json",
    ):
        parsed = form.parse(
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
            f'{header}<|message|>{{"a": 1}}<|call|>'
        )
        assert [(c.name, dict(c.arguments)) for c in parsed.tool_calls] == [("add", {"a": 1})]
        assert (parsed.reasoning, parsed.text) == ("Hm.", "")
