"""What LlamaIndex and its users expect of an LLM, as a suite: there is none upstream.

A subclass gives the `case` fixture. Every test speaks to the LLM through LlamaIndex's own
interface, so that any chat LLM can be put through it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import Refine

from tests.ticker import longest_block_s

LONGEST_BLOCK_S = 0.05
"""Of the event loop."""


@dataclass(frozen=True, kw_only=True)
class LLMCase:
    """An LLM, and what is known of it."""

    llm: LLM
    make: Callable[..., LLM]
    """The same LLM with further fields."""
    flowing: LLM
    """One whose answer is certain from its first token on."""
    question: str
    """Answered with many tokens, of which a space is one of the first characters."""
    context_window: int
    num_running: Callable[[], float]
    """Requests that its engine or server is busy with."""


class EventLog(BaseEventHandler):
    """Keeps the events that it is told of."""

    seen: list[BaseEvent] = []  # noqa: RUF012  # pydantic copies it

    @classmethod
    def class_name(cls) -> str:
        return "EventLog"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.seen.append(event)

    def names(self) -> list[str]:
        return [event.class_name() for event in self.seen]


class CallbackLog(TokenCountingHandler):
    """Counts tokens, and keeps what it is told; its tokenizer is a word's length, offline."""

    def __init__(self) -> None:
        super().__init__(tokenizer=str.split)
        self.starts: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        if event_type is CBEventType.LLM:
            self.starts.append(payload or {})
        return super().on_event_start(event_type, payload, event_id, parent_id, **kwargs)

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        if event_type is CBEventType.LLM:
            self.ends.append(payload or {})
        super().on_event_end(event_type, payload, event_id, **kwargs)


@pytest.fixture
def events() -> Iterator[EventLog]:
    """All instrumentation events of a test."""
    log = EventLog()
    root = get_dispatcher()
    root.add_event_handler(log)
    yield log
    root.event_handlers.remove(log)


async def settle(case: LLMCase, within_s: float = 1.0) -> float:
    """Return how many requests still run once there was time to stop them."""
    deadline = time.monotonic() + within_s
    while (running := case.num_running()) and time.monotonic() < deadline:
        gc.collect()
        await asyncio.sleep(0.05)
    return running


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(text)]


class LLMConformance:
    """The suite."""

    # What it is.

    def test_metadata_says_that_it_chats_and_what_fits(self, case: LLMCase) -> None:
        metadata = case.llm.metadata
        assert metadata.is_chat_model
        assert metadata.context_window == case.context_window
        assert 0 < metadata.num_output < metadata.context_window

    def test_class_name_stands_in_its_dictionary(self, case: LLMCase) -> None:
        assert case.llm.to_dict()["class_name"] == case.llm.class_name() != "base_component"

    def test_json_and_back(self, case: LLMCase) -> None:
        again = type(case.llm).from_json(case.llm.to_json())
        assert again.to_dict() == case.llm.to_dict()

    def test_no_secret_in_its_dictionary_or_repr(self, case: LLMCase) -> None:
        llm = case.make(api_key="sk-very-secret")
        assert "sk-very-secret" not in str(llm.to_dict())
        assert "sk-very-secret" not in repr(llm)

    def test_no_secret_in_events(self, case: LLMCase, events: EventLog) -> None:
        case.make(api_key="sk-very-secret").complete(case.question)
        assert events.seen
        assert "sk-very-secret" not in str([event.model_dump() for event in events.seen])

    def test_pickle(self, case: LLMCase) -> None:
        again = pickle.loads(pickle.dumps(case.llm))  # its own bytes
        assert again.complete(case.question).text == case.llm.complete(case.question).text

    # Answers.

    def test_complete(self, case: LLMCase) -> None:
        response = case.llm.complete(case.question)
        assert isinstance(response, CompletionResponse)
        assert response.text.strip()

    async def test_acomplete(self, case: LLMCase) -> None:
        response = await case.llm.acomplete(case.question)
        assert response.text == case.llm.complete(case.question).text

    def test_chat(self, case: LLMCase) -> None:
        response = case.llm.chat(user(case.question))
        assert isinstance(response, ChatResponse)
        assert response.message.role == MessageRole.ASSISTANT
        assert response.message.content

    async def test_achat(self, case: LLMCase) -> None:
        response = await case.llm.achat(user(case.question))
        assert response.message.content == case.llm.chat(user(case.question)).message.content

    def test_a_completion_is_a_chat_of_one_turn(self, case: LLMCase) -> None:
        chatted = case.llm.chat(user(case.question)).message.content
        assert case.llm.complete(case.question).text == chatted

    def test_a_call_by_keyword(self, case: LLMCase) -> None:
        assert case.llm.complete(prompt=case.question).text
        assert case.llm.chat(messages=user(case.question)).message.content

    async def test_sync_calls_work_inside_a_running_loop(self, case: LLMCase) -> None:
        assert case.llm.complete(case.question).text
        assert "".join(r.delta or "" for r in case.llm.stream_complete(case.question))

    def test_messages_are_left_as_they_are(self, case: LLMCase) -> None:
        messages = [ChatMessage("Be brief.", role="system"), ChatMessage(case.question)]
        before = [message.model_dump() for message in messages]
        case.llm.chat(messages)
        assert [message.model_dump() for message in messages] == before

    def test_several_turns(self, case: LLMCase) -> None:
        messages = [
            ChatMessage("Be brief.", role="system"),
            ChatMessage("Hello."),
            ChatMessage("Hello, what is it?", role="assistant"),
            ChatMessage(case.question),
        ]
        assert case.llm.chat(messages).message.content

    def test_blocks_of_text_and_earlier_thoughts(self, case: LLMCase) -> None:
        messages = [
            ChatMessage("Hello."),
            ChatMessage(
                role="assistant", content=[ThinkingBlock(content="hm"), TextBlock(text="Yes?")]
            ),
            ChatMessage(content=[TextBlock(text="Please:"), TextBlock(text=case.question)]),
        ]
        assert case.llm.chat(messages).message.content

    # Streams.

    def test_stream_complete(self, case: LLMCase) -> None:
        self._check_stream(
            [(r.delta, r.text) for r in case.llm.stream_complete(case.question)],
            case.llm.complete(case.question).text,
        )

    def test_stream_chat(self, case: LLMCase) -> None:
        responses = list(case.llm.stream_chat(user(case.question)))
        assert {r.message.role for r in responses} == {MessageRole.ASSISTANT}
        self._check_stream(
            [(r.delta, r.message.content) for r in responses],
            case.llm.chat(user(case.question)).message.content,
        )

    async def test_astream_complete(self, case: LLMCase) -> None:
        stream = await case.llm.astream_complete(case.question)
        self._check_stream(
            [(r.delta, r.text) async for r in stream], case.llm.complete(case.question).text
        )

    async def test_astream_chat(self, case: LLMCase) -> None:
        stream = await case.llm.astream_chat(user(case.question))
        self._check_stream(
            [(r.delta, r.message.content) async for r in stream],
            case.llm.chat(user(case.question)).message.content,
        )

    @staticmethod
    def _check_stream(steps: list[tuple[str | None, str | None]], whole: str | None) -> None:
        said = ""
        for delta, so_far in steps:
            said += delta or ""
            assert (so_far or "") == said
        assert said == whole

    async def test_a_stream_flows(self, case: LLMCase) -> None:
        stream = await case.flowing.astream_complete(case.question)
        deltas = [response.delta async for response in stream]
        assert sum(bool(delta) for delta in deltas) > 1
        assert sum(bool(r.delta) for r in case.flowing.stream_chat(user(case.question))) > 1

    def test_the_last_of_a_stream_has_the_usage(self, case: LLMCase) -> None:
        *_, last = case.llm.stream_chat(user(case.question))
        assert last.raw is not None
        usage = dict(last.raw)["usage"]
        assert usage is not None
        assert (usage if isinstance(usage, dict) else usage.model_dump())["prompt_tokens"] > 0

    async def test_a_stream_that_is_closed_leaves_nothing_running(self, case: LLMCase) -> None:
        stream = await case.flowing.astream_chat(user(case.question))
        await anext(stream)
        await stream.aclose()
        assert await settle(case) == 0

    async def test_a_sync_stream_that_is_closed_leaves_nothing_running(self, case: LLMCase) -> None:
        stream = case.flowing.stream_complete(case.question)
        next(stream)
        stream.close()
        assert await settle(case) == 0

    async def test_a_stream_that_is_forgotten_leaves_nothing_running(self, case: LLMCase) -> None:
        stream = await case.flowing.astream_chat(user(case.question))
        await anext(stream)
        del stream
        assert await settle(case) == 0

    # What was paid.

    def test_raw_has_the_usage(self, case: LLMCase) -> None:
        for response in (case.llm.complete(case.question), case.llm.chat(user(case.question))):
            usage = dict(response.raw or {})["usage"]
            counts = usage if isinstance(usage, dict) else usage.model_dump()
            assert counts["prompt_tokens"] > 0
            assert counts["completion_tokens"] > 0
            assert response.additional_kwargs["total_tokens"] == counts["total_tokens"]

    def test_raw_is_json(self, case: LLMCase) -> None:
        raw = case.llm.chat(user(case.question)).raw
        assert isinstance(raw, dict)
        assert json.loads(json.dumps(raw)) == raw

    @pytest.mark.parametrize("method", ["complete", "chat", "stream_complete", "stream_chat"])
    def test_token_counting(self, case: LLMCase, method: str) -> None:
        log = CallbackLog()
        llm = case.make(callback_manager=CallbackManager([log]))
        asked = case.question if method.endswith("complete") else user(case.question)
        result = getattr(llm, method)(asked)
        last = result if not method.startswith("stream") else list(result)[-1]
        usage = dict(last.raw)["usage"]
        counts = usage if isinstance(usage, dict) else usage.model_dump()
        assert log.prompt_llm_token_count == counts["prompt_tokens"]
        assert log.completion_llm_token_count == counts["completion_tokens"]

    # Callbacks and events.

    @pytest.mark.parametrize("method", ["complete", "chat", "stream_complete", "stream_chat"])
    def test_one_event_of_callbacks_a_call(self, case: LLMCase, method: str) -> None:
        log = CallbackLog()
        llm = case.make(callback_manager=CallbackManager([log]))
        asked = case.question if method.endswith("complete") else user(case.question)
        result = getattr(llm, method)(asked)
        if method.startswith("stream"):
            list(result)
        assert len(log.starts) == len(log.ends) == 1

    def test_an_error_ends_the_event_of_its_call(self, case: LLMCase) -> None:
        log = CallbackLog()
        llm = case.make(callback_manager=CallbackManager([log]))
        with pytest.raises(Exception):  # noqa: B017, PT011  # which one is the next tests' business
            llm.chat([])
        assert len(log.starts) == len(log.ends) == 1
        assert EventPayload.EXCEPTION in log.ends[0]

    async def test_instrumentation_events(self, case: LLMCase, events: EventLog) -> None:
        await case.llm.achat(user(case.question))
        assert events.names() == ["LLMChatStartEvent", "LLMChatEndEvent"]
        events.seen.clear()
        await case.llm.acomplete(case.question)
        assert events.names() == ["LLMCompletionStartEvent", "LLMCompletionEndEvent"]

    async def test_instrumentation_events_of_a_stream(
        self, case: LLMCase, events: EventLog
    ) -> None:
        async for _ in await case.llm.astream_chat(user(case.question)):
            pass
        names = events.names()
        assert names[0] == "LLMChatStartEvent"
        assert set(names[1:-1]) == {"LLMChatInProgressEvent"}
        assert names[-1] == "LLMChatEndEvent"

    # Settings of a call.

    def test_stop_strings_never_show(self, case: LLMCase) -> None:
        whole = case.llm.complete(case.question).text
        stop = whole.strip()[3:6]
        cut = case.llm.complete(case.question, stop=[stop]).text
        assert cut.strip() == whole.strip().partition(stop)[0].strip()

    def test_stop_strings_never_show_in_a_stream(self, case: LLMCase) -> None:
        whole = case.llm.complete(case.question).text
        stop = whole.strip()[3:6]
        texts = [r.text for r in case.llm.stream_complete(case.question, stop=[stop])]
        assert all(stop not in text for text in texts)
        assert texts[-1].strip() == whole.strip().partition(stop)[0].strip()

    def test_max_tokens_of_one_call(self, case: LLMCase) -> None:
        short = case.llm.complete(case.question, max_tokens=3)
        assert len(short.text) < len(case.llm.complete(case.question).text)

    def test_an_unknown_keyword_is_refused(self, case: LLMCase) -> None:
        with pytest.raises((TypeError, ValueError), match="temprature"):
            case.llm.complete(case.question, temprature=0.5)

    def test_the_same_again(self, case: LLMCase) -> None:
        texts = {case.llm.complete(case.question, temperature=1.0, seed=3).text for _ in range(3)}
        assert len(texts) == 1

    # Bad input.

    @pytest.mark.parametrize("method", ["chat", "stream_chat"])
    def test_an_image_is_refused_by_name(self, case: LLMCase, method: str) -> None:
        message = ChatMessage(
            content=[TextBlock(text="What is it?"), ImageBlock(image=b"\x89PNG\r\n\x1a\n")]
        )
        with pytest.raises(Exception, match="image") as caught:
            list(getattr(case.llm, method)([message]))
        assert isinstance(caught.value, ValueError)

    def test_no_message_is_refused_before_it_is_sent(self, case: LLMCase) -> None:
        with pytest.raises(ValueError, match="messages"):
            case.llm.chat([])

    async def test_a_prompt_that_does_not_fit_is_refused_with_its_size(self, case: LLMCase) -> None:
        prompt = "Use 3 and 4 to make 7. " * case.context_window
        with pytest.raises(Exception, match=str(case.context_window)) as caught:
            await case.llm.acomplete(prompt)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(Exception, match=str(case.context_window)) as caught:
            await case.llm.achat(user(prompt))
        assert isinstance(caught.value, ValueError)

    # Many at once.

    async def test_the_event_loop_goes_on(self, case: LLMCase) -> None:
        await case.llm.acomplete(case.question)
        # On a busy machine the best of several: what blocks does so every time.
        longest = [
            await longest_block_s(partial(case.llm.acomplete, case.question)) for _ in range(5)
        ]
        assert min(longest) < LONGEST_BLOCK_S

    async def test_32_at_once(self, case: LLMCase) -> None:
        asked = [f"Use {n} and 4 to make {n + 4}." for n in range(1, 33)]
        alone = [(await case.llm.acomplete(prompt)).text for prompt in asked[:3]]
        together = await asyncio.gather(*(case.llm.acomplete(prompt) for prompt in asked))
        assert [response.text for response in together][:3] == alone
        assert await settle(case) == 0

    async def test_a_task_that_is_cancelled_leaves_nothing_running(self, case: LLMCase) -> None:
        task = asyncio.ensure_future(case.llm.achat(user(case.question)))
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if case.num_running():
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await settle(case) == 0

    def test_several_event_loops(self, case: LLMCase) -> None:
        texts = {asyncio.run(case.llm.acomplete(case.question)).text for _ in range(3)}
        assert len(texts) == 1

    def test_several_threads(self, case: LLMCase) -> None:
        texts: list[str] = []

        def ask() -> None:
            texts.append(case.llm.complete(case.question).text)
            texts.append(asyncio.run(case.llm.acomplete(case.question)).text)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts) == 8
        assert len(set(texts)) == 1

    # Where it is used.

    async def test_predict(self, case: LLMCase) -> None:
        prompt = PromptTemplate("{question}")
        predicted = case.llm.predict(prompt, question=case.question)
        assert predicted == case.llm.complete(case.question).text
        assert await case.llm.apredict(prompt, question=case.question) == predicted
        assert "".join(case.llm.stream(prompt, question=case.question)) == predicted
        tokens = await case.llm.astream(prompt, question=case.question)
        assert "".join([token async for token in tokens]) == predicted

    def test_settings(self, case: LLMCase, settings: None) -> None:
        Settings.llm = case.llm
        assert Settings.llm is case.llm

    async def test_a_chat_engine_remembers(self, case: LLMCase, settings: None) -> None:
        Settings.llm = case.llm
        memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
        engine = SimpleChatEngine.from_defaults(llm=case.llm, memory=memory)
        assert (await engine.achat(case.question)).response
        stream = await engine.astream_chat(case.question)
        assert "".join([token async for token in stream.async_response_gen()])
        assert len(engine.chat_history) == 4

    async def test_a_query_engine(self, case: LLMCase, settings: None) -> None:
        Settings.llm = case.llm
        index = SummaryIndex.from_documents([Document(text="41 is 19 and 25 less 3.")])
        plain = PromptTemplate("{query_str}")
        # Its default keeps 500 tokens free, more than small models have.
        synthesizer = Refine(text_qa_template=plain, refine_template=plain, response_padding_size=0)
        engine = index.as_query_engine(response_synthesizer=synthesizer)
        assert str(await engine.aquery(case.question)) == case.llm.complete(case.question).text
        assert str(await asyncio.to_thread(engine.query, case.question))


@pytest.fixture
def settings() -> Iterator[None]:
    """LlamaIndex's global settings, put back afterwards; nothing in them is downloaded."""
    import llama_index.core

    before = dict(vars(Settings)), llama_index.core.global_tokenizer
    Settings.tokenizer = str.split
    yield
    vars(Settings).clear()
    vars(Settings).update(before[0])
    llama_index.core.global_tokenizer = before[1]
