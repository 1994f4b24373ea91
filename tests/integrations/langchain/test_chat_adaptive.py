"""`ChatAdaptive` as its users meet it, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import fields, replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks.usage import UsageMetadataCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.load import dumpd, dumps, loads
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField

from aic_integrations.langchain import ChatAdaptive
from aic_integrations.langchain.messages import to_messages, to_usage, to_usage_metadata
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine, StreamCall
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    ModelFilesError,
    NoFinishedSampleError,
)
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.model import shared as shared_module
from selfeval_backend.types import TraceEvent, Usage
from tests.conftest import ModelFactory

CHAT = ScriptedChat()
SCRIPT = [
    CHAT.response("no idea", 0.2),
    CHAT.response(" forty-one ", {2: 0.9, 11: 0.8}),
    CHAT.response("twelve", {2: 0.1, 6: 0.5}),
]


def engine_of(llm: ChatAdaptive) -> ScriptedEngine:
    assert llm.backend is not None and isinstance(llm.backend.engine, ScriptedEngine)
    return llm.backend.engine


@pytest.fixture
def llm(make_model: ModelFactory) -> ChatAdaptive:
    """Three samples to a prompt, the second one is the best."""
    model = make_model(SCRIPT, repeat=True, name="double")
    return ChatAdaptive.from_model(model, max_samples=3, adaptive=False, seed=5)


@pytest.fixture
def echo(make_model: ModelFactory) -> ChatAdaptive:
    """Answers with the prompt, in capitals."""

    def script(call: StreamCall) -> Any:
        text = CHAT.decode(call.prompt_ids).upper()
        return replace(CHAT.response(text, 0.95), delay_s=0.001)

    return ChatAdaptive.from_model(make_model(script, chunk_tokens=2))


# Answers.


def test_invoke_gives_the_chosen_text_only(llm: ChatAdaptive) -> None:
    message = llm.invoke("Make 41.")
    assert type(message) is AIMessage
    assert message.content == "forty-one"
    assert message.id is not None
    assert engine_of(llm).num_open == 0


def test_the_metadata_says_how_the_answer_was_come_by(llm: ChatAdaptive) -> None:
    metadata = llm.invoke("Make 41.").response_metadata
    assert set(metadata) == {"model_name", "model_provider", "finish_reason", "best_of_n"}
    assert metadata["model_name"] == "double"
    assert metadata["model_provider"] == "adaptive-inference-compute"
    assert metadata["finish_reason"] == "stop"
    best_of_n = metadata["best_of_n"]
    assert json.loads(json.dumps(best_of_n)) == best_of_n
    assert best_of_n["confidence"] == pytest.approx(0.8)
    assert best_of_n["calibrated"] is True
    assert best_of_n["stop_reason"] == "max_samples"
    assert [sample["fate"] for sample in best_of_n["samples"]] == ["finished", "chosen", "finished"]
    assert best_of_n["tokens"]["chosen"] == 12
    assert best_of_n["policy"]["max_samples"] == 3
    assert best_of_n["policy"]["seed"] == 5
    assert "texts" not in best_of_n
    assert "no idea" not in str(metadata)


def test_tokens_are_drawn_as_fields_and_calls_say(llm: ChatAdaptive) -> None:
    asked = llm.model_copy(update={"top_k": 20, "repetition_penalty": 1.1})
    best_of_n = asked.invoke("Make 41.", min_p=0.05).response_metadata["best_of_n"]
    drawn = {"top_p": 1.0, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    assert all(call.params.shaping == drawn for call in engine_of(llm).stream_calls)
    assert {name: best_of_n["policy"][name] for name in drawn} == drawn
    assert best_of_n["policy_sources"]["min_p"] == "given"
    assert "top_p" not in best_of_n["policy_sources"]  # as by default


def test_the_other_texts_are_opt_in(llm: ChatAdaptive) -> None:
    message = llm.invoke("Make 41.", include_samples=True)
    texts = message.response_metadata["best_of_n"]["texts"]
    assert texts == ["no idea", "forty-one", "twelve"]


def test_usage_counts_everything_that_was_paid_for_once(llm: ChatAdaptive) -> None:
    usage = llm.invoke("Make 41.", prune_at=2, keep_fraction=0.6).usage_metadata
    assert usage is not None
    num_prompt = len(CHAT.prompt_ids(to_messages([HumanMessage("Make 41.")])))
    assert llm.backend is not None
    num_question = len(llm.backend.evaluator.question_ids)
    # Of five self-evaluations; the last token of an unfinished response is in no cache yet.
    read = 3 * (num_prompt + 1) + (num_prompt + 7) + (num_prompt + 11)
    assert usage["output_tokens"] == 8 + 12 + 2
    assert dict(usage["output_token_details"]) == {
        "chosen": 12,
        "discarded": 8,
        "pruned": 2,
        "aborted": 0,
    }
    assert usage["input_tokens"] == 3 * num_prompt + read + 5 * num_question + 3
    assert dict(usage["input_token_details"]) == {
        "cache_read": 2 * num_prompt + read,
        "self_evaluation": 5 * num_question + 3,
    }
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_usage_adds_up_over_calls(llm: ChatAdaptive) -> None:
    handler = UsageMetadataCallbackHandler()
    messages = [llm.invoke("Make 41.", config={"callbacks": [handler]}) for _ in range(2)]
    total = sum(m.usage_metadata["total_tokens"] for m in messages if m.usage_metadata)
    assert handler.usage_metadata["double"]["total_tokens"] == total


async def test_ainvoke_runs_on_the_callers_loop(llm: ChatAdaptive) -> None:
    threads: list[threading.Thread] = []
    watched = llm.model_copy(
        update={"on_progress": lambda event: threads.append(threading.current_thread())}
    )
    assert (await watched.ainvoke("Make 41.")).content == "forty-one"
    assert set(threads) == {threading.current_thread()}


async def test_invoke_works_inside_a_running_loop(llm: ChatAdaptive) -> None:
    assert llm.invoke("Make 41.").content == "forty-one"


def test_a_chain(echo: ChatAdaptive) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "be{how}"), ("human", "say {what}")])
    chain = prompt | echo | StrOutputParser()
    assert chain.invoke({"how": "nice", "what": "hi"}) == "BENICESAY HI"


async def test_an_asynchronous_chain(echo: ChatAdaptive) -> None:
    chain = ChatPromptTemplate.from_template("say {what}") | echo | StrOutputParser()
    assert await chain.ainvoke({"what": "hi"}) == "SAY HI"


def test_batch_keeps_its_order(echo: ChatAdaptive) -> None:
    prompts = [f"prompt {i}" for i in range(12)]
    assert [m.content for m in echo.batch(list(prompts))] == [p.upper() for p in prompts]
    assert engine_of(echo).num_open == 0


async def test_abatch_runs_together(echo: ChatAdaptive) -> None:
    prompts = [f"prompt {i}" for i in range(12)]
    most = 0

    def watch(event: TraceEvent) -> None:
        nonlocal most
        most = max(most, engine_of(echo).num_open)

    watched = echo.model_copy(update={"on_progress": watch})
    assert [m.content for m in await watched.abatch(list(prompts))] == [p.upper() for p in prompts]
    assert most > 1
    assert engine_of(echo).num_open == 0


@pytest.mark.timeout(120)
def test_threads_and_loops_share_one_model(echo: ChatAdaptive) -> None:
    answers: dict[int, list[Any]] = {}

    async def several(name: int) -> list[Any]:
        return await asyncio.gather(*(echo.ainvoke(f"loop {name} {i}") for i in range(3)))

    def work(name: int) -> None:
        found = asyncio.run(several(name)) if name % 2 else echo.batch([f"loop {name} 0"])
        answers[name] = [message.content for message in found]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 6
    for name, found in answers.items():
        assert found == [f"LOOP {name} {i}" for i in range(len(found))]
    assert engine_of(echo).num_open == 0


async def test_cancelling_leaves_nothing_running(make_model: ModelFactory) -> None:
    slow = replace(CHAT.response("never"), delay_s=60.0)
    llm = ChatAdaptive.from_model(make_model([slow] * 4), adaptive=False, max_samples=4)
    task = asyncio.create_task(llm.ainvoke("x"))
    while engine_of(llm).num_running < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine_of(llm).num_open == 0


def test_progress_tells_every_decision(llm: ChatAdaptive) -> None:
    events: list[TraceEvent] = []
    llm.model_copy(update={"on_progress": events.append}).invoke("Make 41.")
    names = [type(event.decision).__name__ for event in events]
    assert names == ["Draw", "Advance", "Evaluate", "Stop"]


# Settings.


def test_settings_for_one_call(llm: ChatAdaptive) -> None:
    by_invoke = llm.invoke("Make 41.", max_samples=1)
    by_bind = llm.bind(max_samples=1).invoke("Make 41.")
    for message in (by_invoke, by_bind):
        assert message.response_metadata["best_of_n"]["num_samples"] == 1
    assert llm.max_samples == 3


def test_a_setting_that_is_not_given_is_what_the_model_was_tuned_for(
    make_model: ModelFactory,
) -> None:
    model = make_model(SCRIPT, policy={"max_samples": 2, "threshold": 0.3}, repeat=True)
    policy = ChatAdaptive.from_model(model, threshold=0.4).invoke("x").response_metadata
    assert policy["best_of_n"]["policy"]["max_samples"] == 2
    assert policy["best_of_n"]["policy"]["threshold"] == 0.4


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_samples": 0}, "max_samples"),
        ({"max_samples": "4"}, "max_samples"),
        ({"threshold": 1.5}, "threshold"),
        ({"keep_fraction": 0}, "keep_fraction"),
        ({"prune_at": [8, 4]}, "prune_at"),
        ({"prune_at": 64, "max_tokens": 32}, "prune_at"),
        ({"prune_at": True}, "prune_at"),
        ({"adaptive": 1}, "adaptive"),
        ({"timeout": -1}, "max_seconds"),
        ({"timeout": 1, "max_seconds": 2}, "timeout"),
        ({"n": 4}, "n"),
        ({"include_samples": "yes"}, "include_samples"),
        ({"retries": 2}, "retries"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_at_once_with_our_error(
    llm: ChatAdaptive, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError) as made:
        ChatAdaptive(**values)
    with pytest.raises(ConfigurationError) as called:
        llm.invoke("x", **values)
    assert made.value.field == called.value.field == field
    assert engine_of(llm).stream_calls == []


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": " "}, "model"),
        ({"model": 3}, "model"),
        ({"engine": "abacus"}, "engine"),
        ({"on_progress": "print"}, "on_progress"),
    ],
    ids=str,
)
def test_a_bad_model_is_refused_at_construction(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChatAdaptive(**values)
    assert caught.value.field == field


def test_an_unknown_name_is_answered_with_those_there_are(llm: ChatAdaptive) -> None:
    with pytest.raises(ConfigurationError, match=r"\bmodel\b.*\bthreshold\b"):
        ChatAdaptive(treshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="threshold") as caught:
        llm.invoke("x", model="other")
    assert "model," not in str(caught.value)


def test_a_model_that_cannot_be_found_is_told_at_the_first_call(tmp_path: Any) -> None:
    llm = ChatAdaptive(model=tmp_path / "nowhere")
    assert llm.model.endswith("nowhere")
    with pytest.raises(ModelFilesError, match="nowhere"):
        llm.invoke("x")


def test_a_model_is_loaded_once_at_the_first_call(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(model: str, **_: object) -> SelfEvaluatingModel:
        loaded.append(model)
        return make_model(SCRIPT, repeat=True)

    monkeypatch.setattr(shared_module, "load_model", load)
    monkeypatch.setattr(shared_module, "choose_engine", lambda: "transformers")
    one, two = ChatAdaptive(model="m"), ChatAdaptive(model="m", threshold=0.1)
    assert loaded == []
    with pytest.raises(ConfigurationError):
        one.invoke("")
    assert loaded == []
    one.invoke("x")
    asyncio.run(two.ainvoke("x"))
    assert loaded == ["m"]


def test_configurable_fields_keep_the_model(llm: ChatAdaptive) -> None:
    field = ConfigurableField(id="n")
    chain = llm.configurable_fields(max_samples=field)
    message = chain.invoke("x", config={"configurable": {"n": 1}})
    assert message.response_metadata["best_of_n"]["num_samples"] == 1
    assert message.response_metadata["model_name"] == "double"


# Messages.


def test_messages_of_all_kinds_become_turns(llm: ChatAdaptive) -> None:
    conversation = to_messages(
        [
            SystemMessage("s"),
            HumanMessage([{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c"}]),
            AIMessage("d"),
            ChatMessage(role="user", content="e"),
            FunctionMessage(name="f", content="g"),
        ]
    )
    assert conversation[-1].name == "f"
    assert [(m.role, m.content) for m in conversation] == [
        ("system", "s"),
        ("user", "abc"),
        ("assistant", "d"),
        ("user", "e"),
        ("tool", "g"),
    ]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
CALL: Any = {"name": "f", "args": {}, "id": "1"}


@pytest.mark.parametrize(
    ("messages", "field", "match"),
    [
        ([], "messages", "at least one message"),
        ([HumanMessage("")], "messages[0].content", "prompt with text"),
        ([HumanMessage("x"), HumanMessage(" \n")], "messages[1].content", "prompt with text"),
        ([HumanMessage([IMAGE])], "messages[0].content[0].type", "image.*send text"),
        ([AIMessage("", tool_calls=[CALL])], "messages[0].content", "prompt with text"),
        ([HumanMessage("x"), RemoveMessage(id="1")], "messages[1]", "RemoveMessage"),
        (
            [HumanMessage("x"), ToolMessage([IMAGE], tool_call_id="1")],
            "messages[1].content[0].type",
            "image",
        ),
        ([ChatMessage(role="critic", content="x")], "messages[0].role", "critic.*assistant"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_that_cannot_be_answered_are_refused_before_any_token(
    llm: ChatAdaptive, messages: list[BaseMessage], field: str, match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        llm.invoke(messages)
    assert caught.value.field == field
    with pytest.raises(ConfigurationError, match=match):
        asyncio.run(llm.ainvoke(messages))
    assert engine_of(llm).stream_calls == []


def test_a_prompt_that_does_not_fit_is_our_error_and_langchains(make_model: ModelFactory) -> None:
    llm = ChatAdaptive.from_model(make_model(SCRIPT, context_length=100))
    with pytest.raises(ContextLengthError, match="Shorten the prompt") as caught:
        llm.invoke("x" * 90)
    assert isinstance(caught.value, ContextOverflowError)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.context_length == 100


def test_a_run_without_a_finished_sample_is_an_error_with_its_trace(
    make_model: ModelFactory,
) -> None:
    failing = CHAT.response("abcdef", fail_after=3)
    llm = ChatAdaptive.from_model(make_model([failing]))
    with pytest.raises(NoFinishedSampleError) as caught:
        llm.invoke("x")
    assert caught.value.trace.usage.generated_tokens == 3


def test_who_asks_for_no_streaming_gets_one_chunk(llm: ChatAdaptive) -> None:
    quiet = llm.model_copy(update={"disable_streaming": True})
    (message,) = quiet.stream("Make 41.")
    assert message.content == "forty-one"


# Caching and serialization.


def test_a_cache_tells_settings_apart(make_model: ModelFactory) -> None:
    cache = InMemoryCache()
    model = make_model(SCRIPT, repeat=True)
    one = ChatAdaptive.from_model(model, max_samples=3, adaptive=False, cache=cache)
    first = one.invoke("x")
    num_streams = len(model.engine.stream_calls)  # type: ignore[attr-defined]
    again = one.invoke("x")
    assert again.content == first.content
    assert again.response_metadata["best_of_n"] == first.response_metadata["best_of_n"]
    assert len(model.engine.stream_calls) == num_streams  # type: ignore[attr-defined]
    one.invoke("x", max_samples=2)
    ChatAdaptive.from_model(model, max_samples=2, adaptive=False, cache=cache).invoke("x")
    assert len(model.engine.stream_calls) == num_streams + 4  # type: ignore[attr-defined]


SETTINGS: dict[str, Any] = {
    "max_samples": 4,
    "adaptive": False,
    "threshold": 0.0,
    "batches": (1, 4),
    "temperature": 0.0,
    "annealing": (0.0, 0.5),
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "max_tokens": 99,
    "prune_at": (8, 16),
    "keep_fraction": (0.5, 0.25),
    "prune_below": 0.1,
    "accept_above": 0.9,
    "max_total_tokens": 1000,
    "max_seconds": 2.5,
    "seed": 0,
    "tool_parser": "hermes",
    "reasoning_parser": "think",
    "include_samples": True,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_in_the_cache_key_and_the_identity(name: str) -> None:
    value = {name: SETTINGS[name]}
    if name in ("keep_fraction",):
        value["prune_at"] = SETTINGS["prune_at"]
    one, plain = ChatAdaptive(**value), ChatAdaptive()
    assert one._get_llm_string() != plain._get_llm_string()
    assert one._identifying_params[name] == SETTINGS[name]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_json_and_back() -> None:
    llm = ChatAdaptive(model="some/folder", on_progress=print, **SETTINGS)
    text = dumps(llm)
    assert "on_progress" not in text
    assert "backend" not in text
    again = loads(text, allowed_objects=[ChatAdaptive], valid_namespaces=["aic_integrations"])
    assert isinstance(again, ChatAdaptive)
    assert again.asdict() == llm.asdict()
    assert again._get_llm_string() == llm._get_llm_string()
    assert dumpd(llm)["id"] == ["aic_integrations", "langchain", "ChatAdaptive"]


def test_tracing_knows_model_and_settings() -> None:
    llm = ChatAdaptive(temperature=0.5, max_tokens=9)
    assert llm._get_ls_params() == {
        "ls_provider": "adaptive-inference-compute",
        "ls_model_type": "chat",
        "ls_model_name": "reference",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
    }
    assert "ls_temperature" not in ChatAdaptive()._get_ls_params()


def test_the_import_is_light() -> None:
    code = (
        "import sys, aic_integrations.langchain as a; a.ChatAdaptive(max_samples=2);"
        "late = ('torch', 'transformers', 'langchain', 'langgraph');"
        "print('ChatAdaptive' in a.__all__, [m for m in late if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.strip() == "True []"


@hypothesis.given(st.builds(Usage, **{field.name: st.integers(0, 99) for field in fields(Usage)}))
def test_usage_in_the_shape_of_langchain_loses_no_token(usage: Usage) -> None:
    there = to_usage_metadata(usage)
    back = to_usage(there)
    assert there["total_tokens"] == usage.input_tokens + usage.generated_tokens
    for name in (
        *("input_tokens", "cached_input_tokens"),
        *("generated_tokens", "self_evaluation_tokens"),
    ):
        assert getattr(back, name) == getattr(usage, name)


def test_stop_strings_end_the_answer_and_never_stand_in_it(make_model: ModelFactory) -> None:
    def answer_with(**given: Any) -> AIMessage:
        script = [CHAT.response("One. Two. Three. Four. Five.", 0.99)]
        llm = ChatAdaptive.from_model(make_model(script), **given.pop("own", {}))
        return llm.invoke("x", **given)

    for given in ({"own": {"stop": ["Two"]}}, {"stop": ["Two"]}, {"own": {"stop": "Two"}}):
        message = answer_with(**given)
        assert message.content == "One."
        assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] >= len("One. Two")
    both = answer_with(own={"stop": ["Two"]}, stop=["Three"])
    assert both.content == "One. Two."
