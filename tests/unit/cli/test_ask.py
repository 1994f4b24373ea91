"""`aic ask`, over a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from selfeval_backend.cli.main import app
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedEngine
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.selfeval import SelfEvalConfig
from selfeval_backend.settings import SETTING_NAMES
from tests.conftest import ModelFactory
from tests.unit.cli.conftest import Aic, UseModel


@pytest.fixture
def model(make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel) -> SelfEvaluatingModel:
    """Unsure of its first answer, sure of its second."""
    made = make_model([chat.response("no idea", 0.2), chat.response("forty-one", 0.95)])
    use_model(made)
    return made


@pytest.fixture
def pruning_model(
    make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel
) -> SelfEvaluatingModel:
    """Stops the first of its two samples after four tokens."""
    made = make_model(
        [
            chat.response("wrong[/b]", {4: 0.2, 9: 0.1}),
            chat.response("[b]right", {4: 0.8, 8: 0.9}),
        ],
        policy={"adaptive": False, "max_samples": 2, "prune_at": [4], "keep_fraction": 0.5},
    )
    use_model(made)
    return made


def row(stdout: str, number: int) -> list[str]:
    """Cells of a sample in the table."""
    return next(
        cells for line in stdout.splitlines() if (cells := line.split())[:1] == [str(number)]
    )


def test_the_answer_its_confidence_and_its_samples(aic: Aic, model: SelfEvaluatingModel) -> None:
    ran = aic("ask", "Make 41.", "--max-samples", 4, "--seed", 7)

    assert ran.status == 0
    assert ran.stderr == ""
    assert ran.stdout.startswith("forty-one\n")
    assert "Confidence 0.950: " in ran.stdout
    assert "not calibrated" not in ran.stdout
    assert row(ran.stdout, 1) == ["1", "0", "8", "0.200", "finished"]
    assert row(ran.stdout, 2) == ["2", "0.5", "10", "0.950", "chosen"]
    # Two of four samples were drawn, and both finished.
    assert "Saved about 50% of the tokens" in ran.stdout
    assert "4 full samples at the mean length of the finished ones" in ran.stdout
    assert "Stopped: confident. Seed 7." in ran.stdout


def test_the_model_is_closed_afterwards(aic: Aic, model: SelfEvaluatingModel) -> None:
    aic("ask", "Make 41.")

    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine.num_open == 0
    with pytest.raises(Exception, match="closed"):
        model.engine._check_open()


def test_a_pruned_sample(aic: Aic, pruning_model: SelfEvaluatingModel) -> None:
    ran = aic("ask", "Which?")

    assert ran.stdout.startswith("[b]right\n")  # what looks like markup is text
    assert row(ran.stdout, 1) == ["1", "1", "4", "0.200", "pruned", "at", "4"]
    assert row(ran.stdout, 2) == ["2", "1", "9", "0.800", "0.900", "chosen"]
    assert "Stopped: max_samples" in ran.stdout


def test_the_whole_outcome_as_json(aic: Aic, pruning_model: SelfEvaluatingModel) -> None:
    ran = aic("ask", "Which?", "--json", "--seed", 3)

    document = json.loads(ran.stdout)
    assert list(document) == [
        "model",
        "engine",
        "prompt",
        "answer",
        "confidence",
        "calibrated",
        "level",
        "no_confidence",
        "stop_reason",
        "best",
        "samples",
        "usage",
        "estimated_saving",
        "settings",
        "settings_sources",
        "trace",
    ]
    assert (document["prompt"], document["answer"]) == ("Which?", "[b]right")
    assert [s["text"] for s in document["samples"]] == ["wron", "[b]right"]
    assert [s["fate"] for s in document["samples"]] == ["pruned", "chosen"]
    assert [e["num_tokens"] for e in document["samples"][1]["evaluations"]] == [4, 8]
    assert document["settings"]["seed"] == 3
    assert document["settings_sources"]["seed"] == "given"
    assert document["settings_sources"]["top_k"] == "default"
    assert document["trace"]["shaping"]["repetition_penalty"] == 1.0
    assert document["usage"]["pruned_tokens"] == 4
    kinds = [event["decision"]["type"] for event in document["trace"]["events"]]
    assert kinds == ["draw", "advance", "evaluate", "prune", "advance", "evaluate", "stop"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prune-at", "4,9"], {"prune_at": [4, 9]}),
        (["--prune-at", "4", "--prune-at", "9"], {"prune_at": [4, 9]}),
        (["--prune-at", "none"], {"prune_at": []}),
        (["--keep", "0.25"], {"prune_at": [4], "keep_fraction": 0.25}),
        (["--prune-at", "4,9", "--keep", "0.5,0.25"], {"keep_fraction": [0.5, 0.25]}),
        (["--prune-below", "0.1"], {"prune_at": [4], "prune_below": 0.1}),
        (["--prune-at", "4,9", "--prune-below", "0,0.1"], {"prune_below": [0.0, 0.1]}),
        (["--adaptive", "--batches", "1,2"], {"adaptive": True, "batches": [1, 2]}),
        (["--no-adaptive"], {"adaptive": False}),
        (["--annealing", "constant"], {"annealing": "constant"}),
        (["--annealing", "0,0.5"], {"annealing": [0.0, 0.5]}),
        (["--top-p", "0.9"], {"top_p": 0.9}),
        (["--stop", "[/", "--stop", "."], {"stop": ["[/", "."]}),
        (["--accept-above", "0.9"], {"prune_at": [4], "accept_above": 0.9}),
        (["--prune-at", "4,9", "--accept-above", "1,0.9"], {"accept_above": [1.0, 0.9]}),
        (["--threshold", "0.7", "--max-samples", "1"], {"threshold": 0.7, "max_samples": 1}),
        (["--temperature", "0.3", "--max-tokens", "50"], {"temperature": 0.3, "max_tokens": 50}),
        (["--top-k", "20", "--min-p", "0.05"], {"top_k": 20, "min_p": 0.05}),
        (["--repetition-penalty", "1.1"], {"repetition_penalty": 1.1}),
        (
            ["--max-seconds", "9.5", "--max-total-tokens", "5000"],
            {"max_seconds": 9.5, "max_total_tokens": 5000},
        ),
    ],
)
def test_options_become_settings(
    aic: Aic, pruning_model: SelfEvaluatingModel, options: list[str], expected: dict[str, Any]
) -> None:
    pruning_model.engine._script = lambda _: ScriptedChat().response("[b]right", 0.5)  # type: ignore[attr-defined]  # a double's own

    ran = aic("ask", "Which?", "--json", *options)

    assert ran.status == 0, ran.stderr
    settings = json.loads(ran.stdout)["settings"]
    assert {name: settings[name] for name in expected} == expected


def test_every_setting_is_an_option() -> None:
    command = typer.main.get_command(app).commands["ask"]  # type: ignore[attr-defined]  # a group
    options = {parameter.name for parameter in command.params}
    renamed = {"keep_fraction": "keep"}
    assert {renamed.get(name, name) for name in SETTING_NAMES} <= options


def test_arguments_of_the_engine(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, object] = {}

    def load(name: str, **given: object) -> SelfEvaluatingModel:
        heard.update(given)
        return make_model([chat.response("yes", 0.95)])

    monkeypatch.setattr("selfeval_backend.model.load_model", load)

    given = ("--engine", "vllm", "--engine-args", '{"tensor_parallel_size": 2}')
    ran = aic("ask", "Hi", "--model", "reference", *given)

    assert ran.status == 0
    assert (heard["engine"], heard["engine_args"]) == ("vllm", {"tensor_parallel_size": 2})


def test_an_uncalibrated_model_says_so_everywhere(
    aic: Aic, chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, **_: object) -> SelfEvaluatingModel:
        scripted = ScriptedEngine([chat.response("perhaps", 0.95)])
        return SelfEvaluatingModel(name=name, engine=scripted, chat=chat, config=SelfEvalConfig())

    monkeypatch.setattr("selfeval_backend.model.load_model", load)

    ran = aic("ask", "Really?", "--model", "reference")

    assert "Confidence 0.950 (not calibrated): " in ran.stdout
    assert "prob_win_or_tie (not calibrated) of each sample" in ran.stdout
    assert ran.stderr.startswith("aic: warning: reference is not calibrated: its selfeval.json")
    assert len(ran.stderr.splitlines()) == 1


def test_a_model_of_which_nothing_is_known_answers_once_without_a_confidence(
    aic: Aic, chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, **_: object) -> SelfEvaluatingModel:
        scripted = ScriptedEngine([chat.response("Paris", 0.1)])
        return SelfEvaluatingModel(name=name, engine=scripted, chat=chat, config=None)

    monkeypatch.setattr("selfeval_backend.model.load_model", load)

    ran = aic("ask", "What?", "--model", "reference", "--max-samples", 4)

    assert ran.stdout.startswith("Paris\n")
    assert "Confidence: none, the model has no selfeval.json" in ran.stdout
    assert ran.stderr.startswith("aic: warning: reference has no selfeval.json")
    assert "aic train" in ran.stderr


def test_a_call_that_a_limit_ended(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel
) -> None:
    slow = chat.response("too late", 0.9, delay_s=60.0)
    script = [chat.response("in time", 0.3), slow, slow]
    use_model(make_model(lambda call: script[call.ordinal]))

    ran = aic("ask", "Quick!", "--max-samples", 3, "--max-seconds", 0.2)

    assert ran.status == 0
    assert ran.stdout.startswith("in time\n")
    assert row(ran.stdout, 2)[-1] == "aborted"
    assert "Stopped: max_seconds" in ran.stdout


def test_a_fault_in_flight_gives_the_best_sample(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel
) -> None:
    script = [chat.response("at least this", 0.3), chat.response("more", 0.9, fail_after=2)]
    use_model(make_model(lambda call: script[call.ordinal]))

    ran = aic("ask", "Well?", "--max-samples", 2)

    assert ran.status == 0
    assert ran.stdout.startswith("at least this\n")
    assert "Stopped: engine_error: The script says: fail here." in ran.stdout


def test_no_finished_sample_at_all(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel
) -> None:
    use_model(make_model(lambda _: chat.response("never", 0.5, fail_after=2)))

    ran = aic("ask", "Well?")

    assert ran.status == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("aic: error: No sample had finished")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([""], "messages[0].content: got ''"),
        (["   "], "messages[0].content: got '   '"),
        (["Hi", "--max-samples", "0"], "max_samples: got 0"),
        (["Hi", "--threshold", "1.5"], "threshold: got 1.5"),
        (["Hi", "--threshold", "nan"], "threshold: got nan"),
        (["Hi", "--keep", "0"], "keep_fraction: got 0.0"),
        (["Hi", "--keep", "half"], "keep_fraction: got 'half'"),
        (["Hi", "--accept-above", "1.5"], "accept_above: got 1.5"),
        (["Hi", "--accept-above", "high"], "accept_above: got 'high'"),
        (["Hi", "--prune-below", "1.5"], "prune_below: got 1.5"),
        (["Hi", "--prune-below", "low"], "prune_below: got 'low'"),
        (["Hi", "--batches", "4,1"], "batches: got (4, 1)"),
        (["Hi", "--batches", "none"], "batches: got ()"),
        (["Hi", "--batches", "few"], "batches: got 'few'"),
        (["Hi", "--annealing", "slowly"], "annealing: got 'slowly'"),
        (["Hi", "--annealing", "0,3"], "annealing: got (0.0, 3.0)"),
        (["Hi", "--top-p", "0"], "top_p: got 0.0"),
        (["Hi", "--engine-args", "dtype"], "engine_args: got 'dtype'"),
        (["Hi", "--engine-args", "[1]"], "engine_args: got '[1]'"),
        (
            ["Hi", "--model", "reference", "--engine-args", '{"a": 1}', "--engine", "transformers"],
            "engine_args: got {'a'",
        ),
        (["Hi", "--prune-at", "8,4"], "prune_at: got (8, 4)"),
        (["Hi", "--prune-at", "soon"], "prune_at: got 'soon'"),
        (["Hi", "--prune-at", "64", "--max-tokens", "64"], "prune_at: got (64,)"),
        (["Hi", "--temperature", "3"], "temperature: got 3.0"),
        (["Hi", "--top-k", "-2"], "top_k: got -2"),
        (["Hi", "--min-p", "1.5"], "min_p: got 1.5"),
        (["Hi", "--repetition-penalty", "0"], "repetition_penalty: got 0.0"),
        (["Hi", "--max-seconds", "0"], "max_seconds: got 0.0"),
        (["Hi", "--seed", "-1"], "seed: got -1"),
        (["Hi", "--engine", "warp"], "engine: got 'warp'"),
        (["Hi", "--model", "./nowhere"], "there is no folder ./nowhere"),
        (["Hi", "--model", ""], "model: got ''"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_status_2(
    aic: Aic, arguments: list[str], named: str
) -> None:
    ran = aic("ask", *arguments)

    assert ran.status == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("aic: error: ")
    assert named in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_prompt_that_does_not_fit(
    aic: Aic, make_model: ModelFactory, chat: ScriptedChat, use_model: UseModel
) -> None:
    use_model(make_model([chat.response("never", 0.5)], context_length=100))

    ran = aic("ask", "a" * 100)

    assert ran.status == 2
    assert "prompt: got '103 tokens'" in ran.stderr
    assert "Shorten the prompt" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "Hi", "--no-such-option"], ["no-such"]])
def test_a_misspelt_command_is_status_2(aic: Aic, arguments: list[str]) -> None:
    ran = aic(*arguments)

    assert ran.status == 2
    assert "Traceback" not in ran.stderr


def test_ctrl_c(
    aic: Aic,
    make_model: ModelFactory,
    use_model: UseModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> Callable[..., object]:
        raise KeyboardInterrupt

    model = make_model(())
    monkeypatch.setattr(type(model), "answer", interrupt)
    use_model(model)

    ran = aic("ask", "Hi")

    assert ran.status == 130
    assert ran.stderr == "aic: interrupted\n"
