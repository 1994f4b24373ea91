"""`aic demo`, over a scripted model."""

from __future__ import annotations

import json

import pytest

from selfeval_backend.cli import progress as progress_module
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.errors import MissingDependencyError, ModelFilesError
from selfeval_backend.model import SelfEvaluatingModel
from tests.conftest import ModelFactory
from tests.unit.cli.conftest import Aic, UseModel
from tests.unit.samples.puzzler import Puzzler

METHODS = ["one sample", "greedy", "best-of-16", "adaptive", "pruning", "adaptive+pruning"]


@pytest.fixture(autouse=True)
def _scripted_models(
    make_model: ModelFactory, chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let there be a model that solves half of the puzzles, and knows when, and one that chats."""

    def load(name: str, **_: object) -> SelfEvaluatingModel:
        if name == "smollm2":
            return make_model([chat.response("No.", 0.95)], repeat=True)
        policy = {"threshold": 0.9, "prune_at": [40], "keep_fraction": 0.25}
        return make_model(Puzzler(), policy=policy)

    monkeypatch.setattr("selfeval_backend.model.load_model", load)
    monkeypatch.setattr("selfeval_backend.cli.fetching.fetch_first", lambda _: None)
    monkeypatch.setattr("selfeval_backend.cli.running.fetch_first", lambda _: None)


def test_the_table_as_json(aic: Aic) -> None:
    ran = aic("demo", "--n", 6, "--seed", 3, "--json")

    assert ran.status == 0
    document = json.loads(ran.stdout)
    assert list(document) == ["model", "n", "seed", "methods", "conversation"]
    assert (document["model"], document["n"], document["seed"]) == ("reference", 6, 3)
    assert [row["method"] for row in document["methods"]] == METHODS
    for row in document["methods"]:
        assert list(row) == [
            "method",
            "accuracy",
            "standard_error",
            "mean_samples",
            "generated_tokens",
            "self_evaluation_tokens",
            "improvement_kept",
            "tokens_saved",
            "seconds",
        ]
    one, _, full, adaptive, _, both = document["methods"]
    assert (one["mean_samples"], one["self_evaluation_tokens"]) == (1.0, 0)
    assert (full["mean_samples"], full["tokens_saved"]) == (16.0, 0.0)
    assert 0.0 < adaptive["tokens_saved"] < 1.0
    assert both["generated_tokens"] <= adaptive["generated_tokens"]


def test_the_same_seed_repeats(aic: Aic) -> None:
    def answers(seed: int) -> list[dict[str, object]]:
        document = json.loads(aic("demo", "--n", 3, "--seed", seed, "--json").stdout)
        return [{**row, "seconds": None} for row in document["methods"]]

    assert answers(0) == answers(0)
    assert answers(0) != answers(3)


def test_the_table_as_text(aic: Aic) -> None:
    ran = aic("demo", "--n", 4, "--seed", 3, "--no-conversation")

    assert ran.status == 0
    assert "reference: 4 held-out problems, seed 3" in ran.stdout
    lines = [line.strip() for line in ran.stdout.splitlines()]
    for method in METHODS:
        assert sum(line.startswith(f"{method}  ") for line in lines) == 1
    full = next(line for line in lines if line.startswith("best-of-16 "))
    assert " ± " in full
    assert "16.00" in full
    assert "…" not in ran.stdout  # nothing is cut


def test_progress_is_lines_where_there_is_no_terminal(aic: Aic) -> None:
    ran = aic("demo", "--n", 2)

    lines = [line for line in ran.stderr.splitlines() if "instructions" not in line]
    assert [line.split("  ")[-1] for line in lines] == [f"{method}: 2 of 2" for method in METHODS]


def test_progress_is_bars_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_module._bars() as progress:
        progress("greedy", 1, 2)
        progress("greedy", 2, 2)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "greedy" in captured.err
    assert "2/2" in captured.err


def test_behind_the_problems_a_chat_model_is_talked_to(aic: Aic) -> None:
    ran = aic("demo", "--n", 2)

    assert ran.status == 0
    _, talked = ran.stdout.split("smollm2: 40 instructions")
    lines = [line.strip() for line in talked.splitlines()]
    for way in ("one sample", "adaptive"):
        assert sum(line.startswith(f"{way}  ") for line in lines) == 1
        assert sum(line.startswith(f"{way}, not all kept") for line in lines) == 3
    assert sum(line.startswith("> ") for line in lines) == 3


def test_the_conversation_as_json(aic: Aic) -> None:
    document = json.loads(aic("demo", "--n", 2, "--json").stdout)

    conversation = document["conversation"]
    assert len(conversation) == 40
    assert len({each["prompt_id"] for each in conversation}) == 40
    for each in conversation:
        assert each["one"]["num_samples"] == 1
        assert each["one"]["confidence"] is None
        assert each["adaptive"]["confidence"] is not None
        assert each["adaptive"]["text"] == each["one"]["text"] == "No."
    assert 0 < sum(each["adaptive"]["right"] for each in conversation) < 40


def test_who_names_a_model_is_shown_that_one_alone(aic: Aic) -> None:
    document = json.loads(aic("demo", "--n", 2, "--model", "mine", "--json").stdout)
    assert document["conversation"] == []


def test_a_model_of_which_nothing_is_known_is_said_to_answer_greedily(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, **_: object) -> SelfEvaluatingModel:
        if name == "reference":
            return make_model(Puzzler())
        engine = ScriptedEngine([chat.response("word " * 100)], repeat=True)
        return SelfEvaluatingModel(name=name, engine=engine, chat=chat, config=None)

    monkeypatch.setattr("selfeval_backend.model.load_model", load)

    ran = aic("demo", "--n", 2)

    assert "Nothing is known of smollm2's self-evaluation: adaptive is its greedy" in ran.stdout
    assert "word [...]" in ran.stdout


@pytest.mark.parametrize(
    "error",
    [
        ModelFilesError("smollm2 cannot be fetched: there is no network."),
        MissingDependencyError("gguf", extra="transformers"),
    ],
    ids=["no network", "no gguf"],
)
def test_without_a_chat_model_the_problems_are_answered_all_the_same(
    aic: Aic, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("selfeval_backend.cli.fetching.fetch_first", fail)

    ran = aic("demo", "--n", 2)

    assert ran.status == 0
    assert "reference: 2 held-out problems" in ran.stdout
    assert "the conversation with smollm2 is left out: " in ran.stderr
    assert str(error) in ran.stderr


def test_one_problem_has_no_standard_error(aic: Aic) -> None:
    rows = json.loads(aic("demo", "--n", 1, "--json").stdout)["methods"]
    assert [row["standard_error"] for row in rows] == [None] * 6

    table = aic("demo", "--n", 1, "--no-conversation").stdout
    assert " ± " not in table


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--n", "0"], "n: got 0"), (["--n", "99999"], "n: got 99999"), (["--seed", "-1"], "seed: ")],
)
def test_what_is_out_of_range_is_one_line_and_status_2(
    aic: Aic, options: list[str], named: str
) -> None:
    ran = aic("demo", *options)

    assert ran.status == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"aic: error: {named}")
    assert len(ran.stderr.splitlines()) == 1


def test_an_engine_that_cannot_prune(
    aic: Aic, make_model: ModelFactory, use_model: UseModel
) -> None:
    use_model(make_model(Puzzler(), evaluates_mid_generation=False))

    ran = aic("demo", "--n", 1)

    assert ran.status == 2
    assert "cannot evaluate mid-generation" in ran.stderr
