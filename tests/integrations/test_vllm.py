"""vLLM in this process behind `load_model`: the same answers, and its errors as ours."""

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from transformers import BertConfig, PreTrainedConfig, T5Config

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import Message
from selfeval_backend.doctor import check_architecture
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.vllm import load_vllm_engine
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import REFERENCE_FOLDER, Answer, SelfEvaluatingModel, load_model

pytest.importorskip("vllm", reason="the extra with vLLM is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of vLLM's own dependencies
]

PROMPT = "Use 3, 19 and 25 to make 41, then 8 and 12 to make 20."


@pytest.fixture(scope="module")
def model() -> Iterator[SelfEvaluatingModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model(
            "reference",
            engine="vllm",
            engine_args={"max_model_len": 256, "max_num_batched_tokens": 512},
        )
    yield loaded
    asyncio.run(loaded.aclose())


def ask(model: SelfEvaluatingModel, **settings: object) -> Answer:
    chosen = model.settings({"seed": 0, **settings})
    return asyncio.run(model.answer([Message(role="user", content=PROMPT)], chosen))


def test_greedy_gives_the_same_text_as_transformers(model: SelfEvaluatingModel) -> None:
    here = load_model("reference", engine="transformers")
    texts = [ask(each, max_samples=1, prune_at=()).text for each in (model, here)]
    penalized = [
        ask(each, max_samples=1, prune_at=(), repetition_penalty=1.6, max_tokens=40).text
        for each in (model, here)
    ]
    asyncio.run(here.aclose())
    assert "####" in texts[0]
    assert texts[0] == texts[1]
    assert penalized[0] == penalized[1]
    assert not texts[0].startswith(penalized[0])


SPECULATIVE = """
import asyncio, sys
from dataclasses import replace
from selfeval_backend.engine.base import SamplingParams
from selfeval_backend.engine.vllm import load_vllm_engine
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import REFERENCE_FOLDER

ngrams = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
engine = load_vllm_engine(
    sys.argv[1], engine_args={"max_model_len": 256, "speculative_config": ngrams}
)
plain = SamplingParams(temperature=0.0, max_tokens=4, seed=0, stop_token_ids=frozenset())

async def sample(params):
    chunks = engine.stream((40, 41, 42), params)
    return [token async for chunk in chunks for token in chunk.token_ids]

async def main():
    try:
        await sample(replace(plain, min_p=0.1))
    except ConfigurationError as error:
        print(error.field, len(await sample(plain)))
    await engine.aclose()

asyncio.run(main())
"""


@pytest.mark.timeout(240)
def test_min_p_is_refused_with_speculative_decoding() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SPECULATIVE, str(REFERENCE_FOLDER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["min_p", "4"], ran.stderr[-2000:]


def test_pruned_samples_are_aborted_and_nothing_is_left(model: SelfEvaluatingModel) -> None:
    answer = ask(model, max_samples=16, adaptive=False, prune_at=(32,), keep_fraction=0.25)
    pruned = [s for s in answer.outcome.samples if s.status == "pruned"]
    assert len(pruned) == 12
    assert all(len(s.token_ids) == 32 for s in pruned)
    assert all(s.num_generated_tokens >= 32 for s in pruned)
    assert answer.engine == "vllm"
    assert answer.outcome.calibrated
    assert model.engine.num_running == 0  # type: ignore[attr-defined]  # this engine's own property


def test_the_same_seed_gives_the_same_answer(model: SelfEvaluatingModel) -> None:
    first, again = ask(model, max_samples=4), ask(model, max_samples=4)
    assert first.text == again.text
    assert [s.token_ids for s in first.outcome.samples] == [
        s.token_ids for s in again.outcome.samples
    ]


async def test_a_stream_gives_the_answer_of_a_call(model: SelfEvaluatingModel) -> None:
    settings = model.settings({"max_samples": 4, "prune_at": (16,), "accept_above": 0.5, "seed": 0})
    asked = [Message(role="user", content=PROMPT)]
    *pieces, streamed = [item async for item in model.stream(asked, settings)]
    plain = await model.answer(asked, settings)
    assert not isinstance(streamed, str)
    assert len(pieces) > 1, "an accepted sample is shown while it runs"
    assert "".join(map(str, pieces)) == streamed.text == plain.text
    assert streamed.outcome.best == plain.outcome.best


async def test_a_stream_that_is_left_leaves_nothing_running(model: SelfEvaluatingModel) -> None:
    settings = model.settings({"max_samples": 1, "prune_at": (), "seed": 0})
    stream = model.stream([Message(role="user", content=PROMPT)], settings)
    assert isinstance(await anext(stream), str)
    assert model.engine.num_running == 1  # type: ignore[attr-defined]  # this engine's own property
    await stream.aclose()
    assert model.engine.num_running == 0  # type: ignore[attr-defined]  # as above


@pytest.mark.timeout(600)
async def test_more_prompts_at_once_than_a_step_takes(model: SelfEvaluatingModel) -> None:
    """Their prompts exceed one step's tokens, on which a CPU's vLLM must not cut them up."""
    engine, prompts = model.engine, [tuple(range(n, n + 200)) for n in range(40)]
    params = SamplingParams(temperature=1.0, max_tokens=3, seed=5, stop_token_ids=frozenset())

    async def draw(prompt: tuple[int, ...]) -> int:
        return sum([c.num_generated_tokens async for c in engine.stream(prompt, params)])

    assert await asyncio.gather(*map(draw, prompts)) == [3] * 40


@pytest.mark.parametrize(
    "engine_args", [{"no_such_argument": 1}, {"dtype": "float7"}, {"model": "another"}], ids=str
)
def test_engine_arguments_that_vllm_refuses_name_the_field(engine_args: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="engine_args"):
        load_model("reference", engine="vllm", engine_args=engine_args)


@pytest.mark.parametrize("config", [T5Config(), BertConfig()], ids=lambda c: c.model_type)
def test_a_model_that_vllm_does_not_generate_with_is_refused_by_its_config(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    kind = "ForConditionalGeneration" if config.is_encoder_decoder else "ForMaskedLM"
    config.architectures = [config.model_type.title() + kind]
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="model"):
        load_vllm_engine(str(tmp_path))
    assert check_architecture(tmp_path, engine="vllm").status == "failed"


def test_the_doctor_asks_vllm() -> None:
    check = check_architecture("reference", engine="vllm")
    assert (check.status, check.found) == ("ok", "1,023 tokens of context; vLLM runs it")


def test_engine_arguments_without_vllm_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="engine_args"):
        load_model("reference", engine="transformers", engine_args={"dtype": "float32"})


class Signs(BaseModel):
    """Signs of a sum."""

    first: Literal["+", "-"]
    count: int = Field(ge=0, le=99)


def test_an_answer_in_a_schema_is_that_of_transformers(model: SelfEvaluatingModel) -> None:
    here = load_model("reference", engine="transformers")
    messages = []
    for each in (model, here):
        llm = ChatAdaptive.from_model(each, seed=0, max_samples=1, prune_at=())
        found = llm.with_structured_output(Signs, include_raw=True).invoke(PROMPT)
        assert isinstance(found, dict)
        assert isinstance(found["parsed"], Signs)
        messages.append(found["raw"])
    asyncio.run(here.aclose())
    assert messages[0].content == messages[1].content


def test_samples_under_a_grammar_are_pruned_and_chosen(model: SelfEvaluatingModel) -> None:
    llm = ChatAdaptive.from_model(model, seed=1, adaptive=False, max_samples=8, prune_at=4)
    found = llm.with_structured_output(Signs, include_raw=True).invoke(PROMPT)
    assert isinstance(found, dict)
    assert isinstance(found["parsed"], Signs)
    best_of_n = found["raw"].response_metadata["best_of_n"]
    assert [s["fate"] for s in best_of_n["samples"]].count("pruned") == 4
    assert (best_of_n["valid"], best_of_n["num_invalid"]) == (True, 0)
    assert model.engine.num_running == 0  # type: ignore[attr-defined]  # this engine's own property


def test_vllm_without_a_tokenizer_refuses_a_grammar() -> None:
    loaded = load_model(
        "reference",
        engine="vllm",
        engine_args={"max_model_len": 256, "skip_tokenizer_init": True},
    )
    try:
        with pytest.raises(ConfigurationError, match="grammar"):
            ChatAdaptive.from_model(loaded).with_structured_output(Signs).invoke(PROMPT)
    finally:
        asyncio.run(loaded.aclose())
