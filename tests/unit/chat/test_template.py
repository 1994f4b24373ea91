"""Tools in a conversation: in the template's words where it has some, else as plain JSON."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from selfeval_backend.chat import ChatTemplate, Message, ToolCall, ToolSpec, in_plain_turns
from selfeval_backend.errors import ConfigurationError, ModelFilesError
from tests.chat_templates import chat_of

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

ADD = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {}})
CALL = ToolCall(id="c1", name="add", arguments={"a": 1})
CONVERSATION = [
    Message(role="user", content="What is 1 + 2?"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="3", tool_call_id="c1", name="add"),
]
TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }}{{ '\\n' }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %} CALL {{ call.function.name }} "
    "{{ call.function.arguments.a }}{% endfor %}"
    "{% if m.tool_call_id %} FOR {{ m.tool_call_id }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_template_that_knows_tools_shows_them() -> None:
    chat = chat_of(TEMPLATE)
    assert chat.shows_tools
    text = chat.decode(chat.prompt_ids(CONVERSATION, [ADD]))
    assert text.startswith('TOOLS [{"type": "function", "function": {"name": "add"')
    assert "assistant:  CALL add 1\n" in text
    assert "tool: 3 FOR c1\n" in text


def test_a_template_that_knows_none_shows_plain_json() -> None:
    chat = chat_of(TEMPLATE.replace("tools", "nothing"))
    assert not chat.shows_tools
    text = chat.decode(chat.prompt_ids(CONVERSATION, [ADD]))
    assert text.startswith('user: Tools:\n{"name": "add", "description": "Add."')
    assert 'assistant: {"name": "add", "arguments": {"a": 1}}\n' in text
    assert text.endswith("user: Result of add: 3\nassistant: ")


def test_without_tools_a_conversation_is_rendered_as_ever() -> None:
    plain = [Message(role="user", content="a"), Message(role="user", content="b")]
    for template in (TEMPLATE, TEMPLATE.replace("tools", "nothing")):
        chat = chat_of(template)
        assert chat.decode(chat.prompt_ids(plain)) == "user: a\nuser: b\nassistant: "


def test_special_tokens_are_kept_if_asked_for() -> None:
    chat = chat_of(TEMPLATE)
    ids = (3, *chat.response_ids("x"))
    assert chat.decode(ids) == "x"
    assert chat.decode(ids, keep_special_tokens=True) == "<3>x"


def test_plain_turns_alternate() -> None:
    conversation = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Add, twice."),
        Message(role="assistant", content="Well:", tool_calls=(CALL, CALL)),
        Message(role="tool", content="3", name="add"),
        Message(role="tool", content="4"),
        Message(role="user", content="And?"),
    ]
    turns = in_plain_turns(conversation, [ADD])
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0].content.endswith("\n\nBe brief.")
    assert turns[2].content.splitlines()[0] == "Well:"
    assert turns[2].content.count('"arguments"') == 2
    assert turns[3].content == "Result of add: 3\nResult: 4\nAnd?"


@pytest.mark.parametrize(
    ("value", "shown"), [("你好", '"你好"'), ("half \ud83d", '"half \\ud83d"')]
)
def test_plain_turns_show_letters_of_any_script_as_they_are(value: str, shown: str) -> None:
    call = ToolCall(id="c1", name="add", arguments={"a": value})
    (turn,) = in_plain_turns([Message(role="assistant", content="", tool_calls=(call,))])
    assert turn.content == f'{{"name": "add", "arguments": {{"a": {shown}}}}}'


def test_only_the_assistant_calls_tools() -> None:
    chat = chat_of(TEMPLATE)
    with pytest.raises(ConfigurationError) as caught:
        chat.prompt_ids([Message(role="user", content="x", tool_calls=(CALL,))])
    assert caught.value.field == "messages[0].tool_calls"


def test_an_empty_result_is_a_result() -> None:
    chat = chat_of(TEMPLATE)
    assert chat.prompt_ids([*CONVERSATION[:2], Message(role="tool", content="")])


HALF = "half of \ud83d"


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("tools", "nothing")])
def test_half_of_a_letter_is_refused(template: str) -> None:
    chat = chat_of(template)
    asked = Message(role="user", content=HALF)
    for encode in (
        lambda: chat.prompt_ids([asked]),
        lambda: chat.num_tokens([asked]),
        lambda: chat.response_ids(HALF),
        lambda: chat.follow_up_ids(HALF),
    ):
        with pytest.raises(ConfigurationError, match="whole letters"):
            encode()


@pytest.mark.parametrize("template", [TEMPLATE + "{{ messages | tojson }}", "{{ messages }}"])
def test_what_is_not_of_json_is_refused(template: str) -> None:
    chat = chat_of(template)
    dated = ToolCall(id="c1", name="add", arguments={"a": date(2026, 1, 1)})
    asked = Message(role="user", content="x")
    called = Message(role="assistant", content="", tool_calls=(dated,))
    with pytest.raises(ConfigurationError, match="not JSON serializable"):
        chat.prompt_ids([asked, called, Message(role="tool", content="3")], [ADD])


def test_a_tokenizer_that_fails_in_its_own_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8"
    )
    (tmp_path / "tokenizer.json").write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(ModelFilesError, match="its tokenizer cannot be loaded"):
        ChatTemplate.load(tmp_path)
