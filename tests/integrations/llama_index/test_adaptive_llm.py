"""`AdaptiveLLM` beyond what every LLM does: settings, counts, refusals, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from aic_integrations.llama_index import AdaptiveLLM
from aic_integrations.llama_index.messages import to_messages
from selfeval_backend import adapter_fields as fields_module
from selfeval_backend.chat import Message
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import (
    ConfigurationError,
    ContextLengthError,
    ModelFilesError,
    NoFinishedSampleError,
)
from selfeval_backend.types import TraceEvent
from tests.conftest import ModelFactory
from tests.integrations.llama_index.conftest import engine_of

CHAT = ScriptedChat()
SCRIPT = [
    CHAT.response("no idea", 0.2),
    CHAT.response(" forty-one ", {2: 0.9, 11: 0.8}),
    CHAT.response("twelve", {2: 0.1, 6: 0.5}),
]


@pytest.fixture
def llm(make_model: ModelFactory) -> AdaptiveLLM:
    """Three samples to a prompt, the second one is the best."""
    model = make_model(SCRIPT, repeat=True, name="double")
    return AdaptiveLLM.from_model(model, max_samples=3, adaptive=False, seed=5)


# Answers.


def test_the_chosen_text_only(llm: AdaptiveLLM) -> None:
    response = llm.chat([ChatMessage("Make 41.")])
    assert response.message.content == "forty-one"
    assert response.message.additional_kwargs == {}
    assert llm.complete("Make 41.").text == "forty-one"
    assert engine_of(llm).num_open == 0


def test_how_it_was_come_by(llm: AdaptiveLLM) -> None:
    response = llm.complete("Make 41.")
    assert set(response.additional_kwargs) == {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "best_of_n",
    }
    best_of_n = response.additional_kwargs["best_of_n"]
    assert json.loads(json.dumps(best_of_n)) == best_of_n
    assert best_of_n["confidence"] == pytest.approx(0.8)
    assert [sample["fate"] for sample in best_of_n["samples"]] == ["finished", "chosen", "finished"]
    assert best_of_n["policy"]["seed"] == 5
    assert "texts" not in best_of_n
    assert response.raw is not None
    assert response.raw["best_of_n"] == best_of_n
    assert response.raw["model"] == "double"
    assert response.raw["finish_reason"] == "stop"


def test_everything_that_was_paid_for(llm: AdaptiveLLM) -> None:
    response = llm.complete("Make 41.", prune_at=2, keep_fraction=0.6)
    assert response.raw is not None
    usage = response.raw["usage"]
    num_prompt = len(CHAT.prompt_ids([Message(role="user", content="Make 41.")]))
    assert llm.backend is not None
    num_question = len(llm.backend.evaluator.question_ids)
    # Of five self-evaluations; the last token of an unfinished response is in no cache yet.
    read = 3 * (num_prompt + 1) + (num_prompt + 7) + (num_prompt + 11)
    assert usage["completion_tokens"] == 8 + 12 + 2
    assert usage["completion_tokens_details"] == {
        "chosen_tokens": 12,
        "discarded_tokens": 8,
        "pruned_tokens": 2,
        "aborted_tokens": 0,
    }
    assert usage["prompt_tokens"] == 3 * num_prompt + read + 5 * num_question + 3
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2 * num_prompt + read
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert response.additional_kwargs["total_tokens"] == usage["total_tokens"]


def test_the_other_texts_are_opt_in(llm: AdaptiveLLM) -> None:
    response = llm.complete("Make 41.", include_samples=True)
    assert response.additional_kwargs["best_of_n"]["texts"] == ["no idea", "forty-one", "twelve"]


async def test_it_runs_on_the_callers_loop(llm: AdaptiveLLM) -> None:
    threads: list[threading.Thread] = []

    def watch(event: TraceEvent) -> None:
        threads.append(threading.current_thread())

    watched = llm.model_copy(update={"on_progress": watch})
    assert (await watched.acomplete("Make 41.")).text == "forty-one"
    assert set(threads) == {threading.current_thread()}


def test_completion_to_prompt_is_applied_once(make_model: ModelFactory) -> None:
    def wrap(prompt: str) -> str:
        return f"<{prompt}>"

    def script(call: Any) -> Any:
        return CHAT.response(CHAT.decode(call.prompt_ids), 0.95)

    llm = AdaptiveLLM.from_model(make_model(script), completion_to_prompt=wrap)
    assert llm.complete("hi").text == "<hi>"
    assert llm.complete("hi", formatted=True).text == "hi"


# Messages.


def test_roles() -> None:
    conversation = to_messages(
        [
            ChatMessage("a", role="system"),
            ChatMessage("b", role="developer"),
            ChatMessage("c"),
            ChatMessage("d", role="assistant"),
            ChatMessage("e", role="chatbot"),
            ChatMessage("f", role="model"),
            ChatMessage(content=[TextBlock(text="g"), TextBlock(text="h")]),
        ]
    )
    assert [message.role for message in conversation] == [
        "system",
        "system",
        "user",
        "assistant",
        "assistant",
        "assistant",
        "user",
    ]
    assert conversation[-1].content == "g\nh"


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(image=b"abc"),
        AudioBlock(audio=b"abc"),
        DocumentBlock(data=b"abc"),
        VideoBlock(video=b"abc"),
        ThinkingBlock(content="hm"),
        CitableBlock(title="t", source="s", content=[ImageBlock(image=b"abc")]),
        ToolCallBlock(tool_name="add"),
    ],
    ids=lambda block: block.block_type,
)
def test_other_blocks_are_refused_by_place_and_name(llm: AdaptiveLLM, block: Any) -> None:
    message = ChatMessage(content=[TextBlock(text="see"), block])
    with pytest.raises(ConfigurationError, match=r"messages\[1\]\.blocks\[1\]") as caught:
        llm.chat([ChatMessage("hi"), message])
    assert caught.value.remedy
    assert engine_of(llm).num_open == 0


def test_nothing_asked_is_refused(llm: AdaptiveLLM) -> None:
    for messages in ([], [ChatMessage("")], [ChatMessage("  ")]):
        with pytest.raises(ConfigurationError, match="messages"):
            llm.chat(messages)


# Fields and keyword arguments.


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_samples": 0},
        {"threshold": 1.5},
        {"temperature": "hot"},
        {"engine": "gguf"},
        {"model": " "},
        {"mdoel": "reference"},
        {"on_progress": 3},
        {"include_samples": "yes"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_fields_name_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AdaptiveLLM(**wrong)
    assert caught.value.field == next(iter(wrong))


def test_tokens_are_drawn_as_fields_and_calls_say(make_model: ModelFactory) -> None:
    model = make_model([CHAT.response("yes", 0.9)], repeat=True)
    llm = AdaptiveLLM.from_model(model, max_samples=1, top_k=20, min_p=0.1)
    raw = llm.complete("Which?", repetition_penalty=1.1, min_p=0.05)
    (call,) = engine_of(llm).stream_calls
    assert call.params.shaping == {
        "top_p": 1.0,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }
    sources = raw.additional_kwargs["best_of_n"]["policy_sources"]
    assert (sources["top_k"], sources["min_p"]) == ("given", "given")


def test_keyword_arguments_go_before_fields(llm: AdaptiveLLM) -> None:
    policy = llm.complete("Make 41.", max_samples=2, timeout=9).additional_kwargs["best_of_n"][
        "policy"
    ]
    assert (policy["max_samples"], policy["max_seconds"], policy["seed"]) == (2, 9, 5)
    with pytest.raises(ConfigurationError, match="max_smaples"):
        llm.complete("Make 41.", max_smaples=2)


def test_metadata_is_true_and_leaves_room_for_the_question(llm: AdaptiveLLM) -> None:
    engine, backend = engine_of(llm), llm.backend
    assert backend is not None
    metadata = llm.metadata
    assert metadata.context_window == engine.capabilities.context_length
    assert metadata.model_name == "double"
    narrow = llm.model_copy(update={"max_tokens": 40}).metadata
    assert narrow.num_output == 40 + len(backend.evaluator.question_ids)


def test_tokenize_counts_in_the_models_own_tokens(llm: AdaptiveLLM) -> None:
    assert len(llm.tokenize("forty-one")) == 9


def test_a_dictionary_has_every_setting_and_no_backend(llm: AdaptiveLLM) -> None:
    body = llm.to_dict()
    assert {"class_name", "model", "max_samples", "adaptive", "seed", "prune_at"} <= set(body)
    assert not {"backend", "on_progress", "api_key"} & set(body)
    again = AdaptiveLLM.from_dict(AdaptiveLLM(model="reference", prune_at=[4, 8]).to_dict())
    assert again.prune_at == (4, 8)


def test_pickling_leaves_it_as_it_is(llm: AdaptiveLLM) -> None:
    again = pickle.loads(pickle.dumps(llm))  # its own bytes
    assert again.to_dict() == llm.to_dict()
    assert again.backend is None
    assert llm.complete("Make 41.").text == "forty-one"


def test_events_load_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **keywords: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(fields_module, "shared_model", refuse)
    llm = AdaptiveLLM(model="reference", api_key="sk-secret", max_samples=4)
    payload = llm.to_payload()
    assert payload["max_samples"] == 4
    assert "sk-secret" not in str(payload)


def test_a_model_that_is_not_there(tmp_path: Any) -> None:
    llm = AdaptiveLLM(model=tmp_path / "nothing", engine="transformers")
    with pytest.raises(ModelFilesError, match="nothing"):
        llm.complete("Make 41.")


# What ends badly.


async def test_errors_are_those_of_the_backend(make_model: ModelFactory) -> None:
    failing = AdaptiveLLM.from_model(
        make_model([CHAT.response("never", fail_after=2)], chunk_tokens=1), max_samples=1
    )
    with pytest.raises(NoFinishedSampleError):
        await failing.acomplete("Make 41.")
    narrow = AdaptiveLLM.from_model(make_model(SCRIPT, repeat=True, context_length=64))
    with pytest.raises(ContextLengthError, match="64"):
        await narrow.acomplete("Make 41. " * 20)


async def test_a_time_limit_ends_with_the_best_so_far(make_model: ModelFactory) -> None:
    script = [CHAT.response("quick", 0.3), CHAT.response("slow", 0.9, delay_s=30)]
    llm = AdaptiveLLM.from_model(make_model(script), max_samples=2, timeout=0.2)
    response = await llm.acomplete("Make 41.")
    assert response.text == "quick"
    assert response.additional_kwargs["best_of_n"]["stop_reason"] == "max_seconds"


@pytest.mark.timeout(120)
async def test_threads_and_loops_share_one_model(make_model: ModelFactory) -> None:
    def script(call: Any) -> Any:
        return CHAT.response(CHAT.decode(call.prompt_ids).upper(), 0.95, delay_s=0.001)

    llm = AdaptiveLLM.from_model(make_model(script, chunk_tokens=2))
    found: dict[int, list[str]] = {}

    async def several(name: int) -> list[str]:
        responses = await asyncio.gather(*(llm.acomplete(f"loop {name} {i}") for i in range(3)))
        return [response.text for response in responses]

    def work(name: int) -> None:
        found[name] = asyncio.run(several(name)) if name % 2 else [llm.complete(f"{name}").text]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for name in range(6):
        expected = [f"LOOP {name} {i}" for i in range(3)] if name % 2 else [str(name)]
        assert found[name] == expected
    assert isinstance(llm.backend.engine if llm.backend else None, ScriptedEngine)


def test_importing_it_loads_no_weights_and_no_torch() -> None:
    statement = (
        "import sys, aic_integrations.llama_index as m; m.AdaptiveLLM(model='reference');"
        "print(sorted({'torch', 'transformers', 'vllm', 'langchain_core'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
