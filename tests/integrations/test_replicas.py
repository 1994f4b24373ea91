"""Two real vLLM servers behind one model: work is spread, and one that is killed loses nothing."""

import asyncio
import logging

import pytest

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import Message
from selfeval_backend.model import Answer, SelfEvaluatingModel, Server, load_model
from tests.vllm_server import VllmServer, start_vllm_server

pytestmark = pytest.mark.slow

PROMPTS = [f"Use {a}, 19 and 25 to make {44 - a}, then 8 and 12 to make 20." for a in range(2, 14)]


async def ask(model: SelfEvaluatingModel, prompt: str) -> Answer:
    # In growing batches, so that calls are out of step: at any moment, some are in mid-sample.
    given = {"max_samples": 8, "batches": (4, 8), "threshold": 1.0, "seed": 0, "prune_at": (8,)}
    return await model.answer([Message(role="user", content=prompt)], model.settings(given))


@pytest.mark.timeout(600)
async def test_work_is_spread_and_a_server_that_is_killed_loses_no_call(
    vllm_server: VllmServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("selfeval_backend.engine.replicas"), "disabled", False)
    with start_vllm_server() as doomed:
        urls = (vllm_server.base_url, doomed.base_url)
        model = await asyncio.to_thread(load_model, "reference", server=Server(base_url=urls))
        await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS))
        generated = "vllm:generation_tokens_total"
        of_each = [server.metric(generated) for server in (vllm_server, doomed)]
        assert min(of_each) > 1000

        calls = [asyncio.create_task(ask(model, prompt)) for prompt in PROMPTS]
        while await asyncio.to_thread(doomed.metric, generated) < of_each[1] + 300:
            assert not all(call.done() for call in calls)
        doomed.process.kill()
        answers = await asyncio.gather(*calls)

    for answer in answers:
        outcome = answer.outcome
        assert outcome.stop_reason in ("max_samples", "confident")
        assert outcome.trace.fault is None
        assert "####" in answer.text
        assert {sample.status for sample in outcome.samples} <= {"pruned", "finished"}
        assert len(outcome.samples) in (4, 8)
    assert f"{doomed.base_url} is left out" in caplog.text
    # The one that is left goes on alone.
    assert "####" in (await ask(model, PROMPTS[0])).text
    await model.aclose()


def test_a_list_of_urls_is_enough_and_one_that_is_down_is_left_out(
    vllm_server: VllmServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("selfeval_backend.engine.replicas"), "disabled", False)
    nobody = "http://127.0.0.1:9/v1"
    llm = ChatAdaptive(model="reference", base_url=[nobody, vllm_server.base_url], seed=0)
    assert "####" in llm.invoke(PROMPTS[0]).content
    assert f"{nobody} is left out" in caplog.text
