"""SmolLM2 by its name, from the package index to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfeval_backend import Answer, Message, load_model
from selfeval_backend.chat import ChatTemplate
from selfeval_backend.model import EngineName, count_parameters
from selfeval_backend.sync import run_sync

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:smollm2 has no selfeval.json"),
]

QUESTION = [Message(role="user", content="What is the capital of France?")]


def answered(engine: EngineName, engine_args: dict[str, int] | None = None) -> Answer:
    model = load_model("smollm2", engine=engine, engine_args=engine_args)
    try:
        settings = model.settings({"max_samples": 4, "max_tokens": 32, "seed": 1})
        return run_sync(model.answer(QUESTION, settings))
    finally:
        run_sync(model.aclose())


def test_it_knows_the_capital_of_france(smollm2: Path) -> None:
    assert count_parameters(smollm2) == 134_515_008
    answer = answered("transformers")
    assert answer.text == "The capital of France is Paris."
    assert answer.outcome.confidence is None  # nothing is known of its self-evaluation


@pytest.mark.filterwarnings("ignore")  # of vLLM's own dependencies
def test_it_knows_it_on_vllm_too(smollm2: Path) -> None:
    pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
    assert "Paris" in answered("vllm", engine_args={"max_model_len": 256}).text


def test_it_reads_text_as_it_was_trained(smollm2: Path) -> None:
    chat = ChatTemplate.load(smollm2)
    text = "Two reasons:\n\n1. It is 24  km away.\n\n2. It is cheap."
    prompt = chat.prompt_ids([Message(role="user", content=text)])
    assert chat.decode(prompt).count(text) == 1
    blank_line, digit = 1116, 33
    places = [n for n, token in enumerate(prompt[:-1]) if token == blank_line]
    assert [prompt[n + 1] for n in places] == [digit, digit + 1]
