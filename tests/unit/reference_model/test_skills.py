"""Skills: honest examples, split so that nothing leaks, and nothing of the suites they meet."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import get_args

import pytest
from langchain_tests.integration_tests import chat_models
from langchain_tests.unit_tests import chat_models as unit_chat_models
from llama_index.core.prompts import chat_prompts

from reference_model.skills import (
    SKILL_MIX,
    Example,
    Skill,
    extract_answer,
    generate_examples,
    reward,
    score,
)
from reference_model.skills.context import QA_SYSTEM, QA_TEMPLATES, REFINE_TEMPLATE
from selfeval_backend.chat import ToolForm
from selfeval_backend.reference.problems import Split, split_of

SKILLS = get_args(Skill)


def draw(split: Split, count: int, *, seed: int = 0, skill: Skill | None = None) -> list[Example]:
    mix = SKILL_MIX if skill is None else {skill: 1}
    return list(islice(generate_examples(split, seed=seed, mix=mix), count))


def said(example: Example) -> str:
    """All that is read and written."""
    contents = [message.content for message in example.plain_messages]
    return "\n".join([*contents, example.right.text, example.wrong.text])


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("split", get_args(Split))
def test_right_responses_are_right_and_wrong_ones_wrong(skill: Skill, split: Split) -> None:
    for example in draw(split, 150, skill=skill):
        assert example.skill == skill
        assert reward(example, example.right.text) == 1.0, said(example)
        assert reward(example, example.wrong.text) == 0.0, said(example)
        assert (example.right.is_right, example.wrong.is_right) == (True, False)


@pytest.mark.parametrize("skill", SKILLS)
def test_everything_that_an_example_is_about_is_of_its_split(skill: Skill) -> None:
    for split in get_args(Split):
        for example in draw(split, 100, skill=skill):
            assert {split_of(key) for key in example.keys} == {split}
            assert {split_of(tool.name) for tool in example.tools} <= {split}


def test_nobody_of_a_held_out_text_occurs_in_training() -> None:
    held_out = {name for e in draw("test", 300, skill="context") for name in e.keys}
    assert len(held_out) > 600
    trained = " ".join(said(example) for example in draw("train", 1500, skill="context"))
    words = re.findall(r"\w+", trained)
    # Of two words: a name of one may be a part of a longer one.
    assert not held_out & {f"{one} {other}" for one, other in pairwise(words)}


def test_examples_repeat_by_seed() -> None:
    assert draw("train", 60) == draw("train", 60)
    assert draw("train", 60) != draw("train", 60, seed=1)


def test_what_is_copied_differs_from_example_to_example() -> None:
    calls = draw("train", 1000, skill="call")
    values = [v for e in calls for v in e.want.get("call", {}).get("arguments", {}).values()]
    strings = [value for value in values if isinstance(value, str)]
    assert len(set(strings)) > 0.85 * len(strings)
    assert len({e.want.get("call", e.want.get("free_call"))["name"] for e in calls}) > 900
    assert any(re.search("[\u3041-\u30f3]", value) for value in strings)
    assert any(re.search("[\u4e00-\u9fa5]", value) for value in strings)
    numbers = [n for n in values if isinstance(n, int) and not isinstance(n, bool)]
    assert {len(str(abs(n))) for n in numbers} == {1, 2, 3, 4}


def test_tools_can_be_offered_and_their_calls_are_read_back() -> None:
    for example in draw("train", 200, skill="call"):
        for choice in ("auto", "required"):
            parsed = ToolForm(tools=example.tools, choice=choice).parse(example.right.text)
            assert parsed.valid
            (call,) = parsed.tool_calls
            assert call.name in {tool.name for tool in example.tools}
    assert {len(example.tools) for example in draw("train", 200, skill="call")} == {1, 2, 3, 4}


def test_calls_hold_what_the_request_says() -> None:
    for example in draw("train", 200, skill="call"):
        request = example.messages[-1].content
        for value in example.want.get("call", {}).get("arguments", {}).values():
            assert (value if isinstance(value, str) else json.dumps(value)) in request


def test_of_a_wrong_answer_from_a_text_only_who_it_takes_is_not_learned() -> None:
    honest = 0
    for example in draw("train", 300, skill="context"):
        learned = [piece.text for piece in example.wrong.pieces if piece.is_learned]
        if not learned:
            continue
        (about,) = learned
        (taken,) = (piece.text for piece in example.wrong.pieces if not piece.is_learned)
        assert taken in example.messages[-1].content
        assert extract_answer(about) in example.messages[-1].content
        honest += 1
    assert honest > 200


def test_some_questions_have_no_answer_in_their_text() -> None:
    answers = [example.want["answer"] for example in draw("train", 600, skill="context")]
    unknown = answers.count("The context does not say.") / len(answers)
    assert 0.05 < unknown < 0.25


def test_keys_that_only_a_grammar_knows_are_not_learned() -> None:
    forced = [
        example
        for example in draw("train", 200, skill="json")
        if any(not piece.is_learned for piece in example.right.pieces)
    ]
    assert len(forced) > 50
    for example in forced:
        learned = "".join(piece.text for piece in example.right.pieces if piece.is_learned)
        for key in json.loads(example.right.text):
            assert f'"{key}":' not in learned
            assert key not in example.messages[-1].content.split()


def test_prompts_of_texts_are_llama_indexs_own() -> None:
    assert chat_prompts.TEXT_QA_SYSTEM_PROMPT.content == QA_SYSTEM
    theirs = [
        prompt.message_templates[-1].content
        for prompt in (chat_prompts.CHAT_TEXT_QA_PROMPT, chat_prompts.CHAT_TREE_SUMMARIZE_PROMPT)
    ]
    assert list(QA_TEMPLATES) == theirs
    assert chat_prompts.CHAT_REFINE_PROMPT.message_templates[0].content == REFINE_TEMPLATE


SAYING = (
    *("HumanMessage", "SystemMessage", "AIMessage", "tool_example_to_messages"),
    *("invoke", "ainvoke", "stream", "astream"),
)
"""Calls whose first argument is read by a model."""


def suite_source() -> ast.Module:
    sources = map(inspect.getsource, (chat_models, unit_chat_models))
    return ast.parse("\n".join(sources))  # it is only parsed


def suite_tools() -> Iterator[str]:
    """Names of tools in LangChain's standard suite."""
    for node in ast.walk(suite_source()):
        if isinstance(node, ast.FunctionDef):
            decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
            if any(getattr(d, "id", "") == "tool" for d in decorators):
                yield node.name
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "as_tool":
            yield from (k.value.value for k in node.keywords if k.arg == "name")  # type: ignore[attr-defined]


def suite_prompts() -> Iterator[str]:
    """What LangChain's standard suite says to a model."""
    for node in ast.walk(suite_source()):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = node.args[:1] if name in SAYING else []
        if isinstance(node, ast.Assign):
            given = [node.value]
        for one in given:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one.value


def test_nothing_of_the_standard_suite_is_trained_on() -> None:
    tools, prompts = set(suite_tools()), set(suite_prompts())
    assert {"magic_function", "unicode_customer", "get_weather", "greeting_generator"} <= tools
    assert {"my_adder_tool", "magic_function_no_args"} <= tools
    assert {"Tell me a joke about cats.", "What is 1 + 2", "What is 3 + 4"} <= prompts
    assert any("你好啊集团" in prompt for prompt in prompts)
    assert any("Pirate" in prompt for prompt in prompts)
    examples = [example for split in get_args(Split) for example in draw(split, 2000, seed=7)]
    turns = {m.content.strip().lower() for e in examples for m in e.plain_messages}
    everything = "\n".join(said(example) for example in examples).lower()
    assert not [name for name in tools if name.lower() in everything]
    assert not [prompt for prompt in prompts if prompt.strip().lower() in turns]
    long = [prompt for prompt in prompts if len(prompt.split()) >= 4]
    assert len(long) > 10
    assert not [prompt for prompt in long if prompt.lower() in everything]
    assert not {"weather", "joke", "magic", "greeting", "customer", "pirate"} & {
        *re.findall("[a-z]+", everything)
    }
    assert not re.search("你好|集团|こんにちは|株式会社", everything)


CALL = '{"call": {"name": "find_boat", "arguments": {"id": 3, "name": "\u4f60"}}}'


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        (CALL, '{"name": "find_boat", "arguments": {"id": 3, "name": "\u4f60"}}', 1.0),
        (CALL, '{"arguments": {"name": "\\u4f60", "id": 3}, "name": "find_boat"} ', 1.0),
        (CALL, '[{"name": "find_boat", "arguments": {"id": 3, "name": "\u4f60"}}]', 1.0),
        (CALL, '{"name": "find_boat", "arguments": {"id": "3", "name": "\u4f60"}}', 0.0),
        (CALL, '{"name": "find_boats", "arguments": {"id": 3, "name": "\u4f60"}}', 0.0),
        (CALL, '{"name": "find_boat", "arguments": {"id": 3, "name": "\u4f60"}', 0.0),
        (CALL, "3", 0.0),
        (
            '{"free_call": {"name": "f", "keys": ["a"]}}',
            '{"name": "f", "arguments": {"a": "x"}}',
            1.0,
        ),
        (
            '{"free_call": {"name": "f", "keys": ["a"]}}',
            '{"name": "f", "arguments": {"a": ""}}',
            0.0,
        ),
        ('{"answer": "43"}', "Milo Vorn is 43 years old. Answer: 43", 1.0),
        ('{"answer": "43"}', "43", 1.0),
        ('{"answer": "43"}', "Milo Vorn is 43 years old. Answer: 430", 0.0),
        ('{"answer": "43"}', "", 0.0),
        ('{"text": "You are welcome."}', " You are welcome.\n", 1.0),
        ('{"text": "You are welcome."}', "You are not.", 0.0),
        ('{"json": {"age": 1}}', '{"age": 1}', 1.0),
        ('{"json": {"age": 1}}', '{"age": true}', 0.0),
        ('{"keys": ["a", "b"]}', '{"b": "x", "a": null}', 1.0),
        ('{"keys": ["a", "b"]}', '{"b": "x"}', 0.0),
        ('{"keys": ["a"]}', json.dumps({"a": "word " * 40}), 0.0),
        ('{"puzzle": "3,19,25=41"}', "#### -3 + 19 + 25", 1.0),
        ('{"puzzle": "3,19,25=41"}', "#### 3 + 19 + 25", 0.0),
    ],
)
def test_scores(answer: str, response: str, expected: float) -> None:
    assert score(answer, response) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("-3 + 19 + 25", 1.0), ("3 + 19 + 25", 0.0), ("41", 0.0), ("20 + 21", 0.0)],
)
def test_a_guess_is_right_where_it_reaches_the_target(expression: str, expected: float) -> None:
    want = {"reach": 41, "numbers": [3, 19, 25], "name": "calc", "argument": "sum"}
    call = json.dumps({"name": "calc", "arguments": {"sum": expression}})
    assert score(json.dumps(want), call) == expected


def test_an_agent_with_a_calculator_never_tries_the_same_twice() -> None:
    examples = draw("train", 300, skill="calculator")
    for example in examples:
        calls = [json.dumps(dict(c.arguments)) for m in example.messages for c in m.tool_calls]
        assert len(set(calls)) == len(calls)
    assert max(len(example.messages) for example in examples) > 6
