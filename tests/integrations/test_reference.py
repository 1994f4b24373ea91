"""The shipped reference model, for real: it loads, answers, evaluates itself, and gains by it."""

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aic_integrations.langchain import ChatAdaptive
from selfeval_backend.chat import Message
from selfeval_backend.engine.transformers import TransformersEngine
from selfeval_backend.errors import ConfigurationError, ContextLengthError, ModelFilesError
from selfeval_backend.model import REFERENCE_FOLDER, Answer, SelfEvaluatingModel, load_model
from selfeval_backend.reference.problems import generate_problems, reward

pytestmark = pytest.mark.slow

PROBLEMS = list(islice(generate_problems("test", seed=7), 40))


@pytest.fixture(scope="module")
def model() -> Iterator[SelfEvaluatingModel]:
    loaded = load_model("reference")
    yield loaded
    asyncio.run(loaded.aclose())


def answer_all(model: SelfEvaluatingModel, **settings: object) -> list[Answer]:
    async def every() -> list[Answer]:
        chosen = model.settings({"seed": 1, **settings})
        return await asyncio.gather(
            *(model.answer([Message(role="user", content=p.text)], chosen) for p in PROBLEMS)
        )

    return asyncio.run(every())


def accuracy(answers: list[Answer]) -> float:
    rewards = [reward(p, a.text) for p, a in zip(PROBLEMS, answers, strict=True)]
    return sum(rewards) / len(rewards)


def paid(answers: list[Answer]) -> int:
    usages = [a.outcome.usage for a in answers]
    return sum(u.generated_tokens + u.self_evaluation_tokens for u in usages)


def test_it_is_small_and_loads_with_plain_transformers() -> None:
    size = sum(f.stat().st_size for f in REFERENCE_FOLDER.iterdir())
    assert size <= 12 * 1024 * 1024
    plain = AutoModelForCausalLM.from_pretrained(REFERENCE_FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_FOLDER)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROBLEMS[0].text}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = plain.generate(**ids, max_new_tokens=150, do_sample=False)
    assert "####" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_any_text_survives_the_tokenizer(model: SelfEvaluatingModel) -> None:
    text = "naïve 你好 \N{GRINNING FACE} 12345\n\ttabs"
    assert model.chat.decode(model.chat.response_ids(text)) == text


def test_best_of_16_beats_one_sample_and_adaptive_is_cheaper(model: SelfEvaluatingModel) -> None:
    one = answer_all(model, max_samples=1, annealing="constant")
    best = answer_all(model, adaptive=False, prune_at=())
    adaptive = answer_all(model)
    assert accuracy(best) > accuracy(one) + 0.1
    assert accuracy(adaptive) > accuracy(one) + 0.1
    assert paid(adaptive) < 0.6 * paid(best)
    assert all(a.outcome.calibrated for a in adaptive)
    assert any(len(a.outcome.samples) == 1 for a in adaptive)


def test_pruned_samples_stop_at_their_checkpoint(model: SelfEvaluatingModel) -> None:
    answers = answer_all(model, adaptive=False, max_samples=4, prune_at=(32,), keep_fraction=0.5)
    for answer in answers:
        pruned = [s for s in answer.outcome.samples if s.status == "pruned"]
        assert len(pruned) == 2
        assert all(s.num_generated_tokens == 32 for s in pruned)


def test_the_same_seed_gives_the_same_answer(model: SelfEvaluatingModel) -> None:
    first, again = answer_all(model, max_samples=4), answer_all(model, max_samples=4)
    assert [a.text for a in first] == [a.text for a in again]
    assert [a.outcome.usage for a in first] == [a.outcome.usage for a in again]


def test_the_live_self_evaluation_is_that_of_a_plain_forward_pass(
    model: SelfEvaluatingModel,
) -> None:
    answer = answer_all(model, adaptive=False, max_samples=2)[0]
    plain = AutoModelForCausalLM.from_pretrained(REFERENCE_FOLDER, dtype=torch.float32)
    prompt = model.chat.prompt_ids([Message(role="user", content=PROBLEMS[0].text)])
    checked = 0
    for sample in answer.outcome.samples:
        for said in sample.evaluations:
            ids = (*prompt, *sample.token_ids[: said.num_tokens], *model.evaluator.question_ids)
            with torch.inference_mode():
                logits = plain(input_ids=torch.tensor([ids])).logits[0, -1]
            win, loss = logits.log_softmax(-1)[list(model.evaluator.label_ids)].tolist()
            again = model.evaluator.read((win, loss), num_tokens=said.num_tokens, final=said.final)
            assert again.raw_prob_win_or_tie == pytest.approx(said.raw_prob_win_or_tie, abs=1e-3)
            checked += 1
    assert checked >= 2


def test_nothing_is_left_open_after_answers_and_after_a_cancel(model: SelfEvaluatingModel) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(
            model.answer([Message(role="user", content=PROBLEMS[0].text)], model.settings({}))
        )
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.2)

    asyncio.run(cancelled())
    assert model.engine.num_open == 0  # type: ignore[attr-defined]  # this engine's own property


def test_the_readme_call_through_langchain() -> None:
    llm = ChatAdaptive(model="reference", max_samples=16, seed=0)
    message = llm.invoke("Use 3, 19 and 25 to make 41.")
    facts = message.response_metadata["best_of_n"]
    assert "####" in message.content
    assert 0 <= facts["confidence"] <= 1
    assert facts["calibrated"]
    assert message.usage_metadata is not None
    assert message.usage_metadata["total_tokens"] > facts["tokens"]["chosen"]


def test_bad_input_is_refused_before_any_token(model: SelfEvaluatingModel) -> None:
    with pytest.raises(ContextLengthError, match="prompt"):
        asyncio.run(model.answer([Message(role="user", content="1 " * 1200)]))
    with pytest.raises(ConfigurationError, match="prune_at"):
        model.settings({"prune_at": (64,), "max_tokens": 32})
    assert model.engine.num_open == 0  # type: ignore[attr-defined]  # this engine's own property


def copy_of_reference(folder: Path, *, without: str = "") -> Path:
    folder.mkdir()
    for file in REFERENCE_FOLDER.iterdir():
        if file.name != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_folder_without_selfeval_answers_greedily_after_a_warning(tmp_path: Path) -> None:
    folder = copy_of_reference(tmp_path / "plain", without="selfeval.json")
    with pytest.warns(UserWarning, match="no selfeval.json"):
        plain = load_model(folder)
    answer = asyncio.run(
        plain.answer(
            [Message(role="user", content=PROBLEMS[0].text)],
            plain.settings({"max_samples": 2, "seed": 0}),
        )
    )
    assert [sample.temperature for sample in answer.outcome.samples] == [0.0]
    assert answer.outcome.confidence is None
    asyncio.run(plain.aclose())


def test_a_broken_selfeval_names_file_and_field(tmp_path: Path) -> None:
    folder = copy_of_reference(tmp_path / "broken")
    config = json.loads((folder / "selfeval.json").read_text())
    (folder / "selfeval.json").write_text(json.dumps({**config, "question": ""}))
    with pytest.raises(ModelFilesError, match=r"selfeval.json: question"):
        load_model(folder)
    (folder / "selfeval.json").write_text("{")
    with pytest.raises(ModelFilesError, match=r"selfeval.json"):
        load_model(folder)


async def collect(model: SelfEvaluatingModel, text: str, **given: object) -> tuple[str, Answer]:
    *pieces, answer = [
        item
        async for item in model.stream(
            [Message(role="user", content=text)], model.settings({"seed": 1, **given})
        )
    ]
    assert isinstance(answer, Answer)
    return "".join(str(piece) for piece in pieces), answer


@pytest.mark.parametrize(
    "given",
    [{"max_samples": 1}, {}, {"prune_at": (16, 32), "accept_above": 0.6, "max_samples": 4}],
    ids=str,
)
async def test_a_stream_gives_the_answer_of_a_call(
    model: SelfEvaluatingModel, given: dict[str, object]
) -> None:
    for problem in PROBLEMS[:6]:
        text, streamed = await collect(model, problem.text, **given)
        asked = [Message(role="user", content=problem.text)]
        plain = await model.answer(asked, model.settings({"seed": 1, **given}))
        assert text == streamed.text == plain.text
        assert streamed.outcome.samples == plain.outcome.samples


async def test_leaving_a_stream_ends_what_runs(model: SelfEvaluatingModel) -> None:
    engine = model.engine
    assert isinstance(engine, TransformersEngine)
    items = model.stream(
        [Message(role="user", content=PROBLEMS[0].text)], model.settings({"max_samples": 1})
    )
    assert await anext(items)
    assert engine.num_open == 1
    await items.aclose()
    assert engine.num_open == 0
