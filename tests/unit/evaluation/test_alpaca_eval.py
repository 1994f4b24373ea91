"""The judge is asked as upstream asks, in both orders, and nonsense is refused."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from selfeval_backend.errors import (
    ConfigurationError,
    DatasetError,
    EngineConnectionError,
    EngineRequestError,
    EngineResponseError,
)
from selfeval_backend.evaluation.comparison import evaluate_recording
from selfeval_backend.evaluation.tasks import AlpacaEvalTask, ReferenceTask, named_task
from selfeval_backend.evaluation.tasks.judge import Judge, judge_messages
from selfeval_backend.evaluation.tasks.length_control import length_controlled_win_rate
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.samples.recorder import RecordingPlan
from selfeval_backend.samples.recording import record
from selfeval_backend.samples.store import load_recording


class JudgeServer:
    """Answers what it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append({**json.loads(body), "key": self.headers["Authorization"]})
                status, answer = outer.answers.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def will_say(self, **probs: float) -> None:
        tokens = [{"token": t, "logprob": math.log(p)} for t, p in probs.items()]
        content = [{"token": tokens[0]["token"], "top_logprobs": tokens}]
        self.answers.append((200, {"choices": [{"logprobs": {"content": content}}]}))


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    made = JudgeServer()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def judge(server: JudgeServer) -> Iterator[Judge]:
    made = Judge(server.url, model="wise", api_key="secret")
    yield made
    made.close()


def test_places_are_swapped(server: JudgeServer, judge: Judge) -> None:
    server.will_say(m=0.2, M=0.6, x=0.2)  # the response comes second: 0.75
    server.will_say(m=0.3, M=0.3)  # the response comes first: 0.5

    assert judge.preference("Say hi.", "Hi!", "Good day.") == pytest.approx(0.625)

    first, second = server.asked
    assert first["messages"] == judge_messages("Say hi.", "Good day.", "Hi!")
    assert second["messages"] == judge_messages("Say hi.", "Hi!", "Good day.")
    assert (first["max_tokens"], first["top_logprobs"], first["model"]) == (1, 5, "wise")
    assert first["key"] == "Bearer secret"


def test_a_judge_that_favours_a_place_comes_out_even(server: JudgeServer, judge: Judge) -> None:
    server.will_say(m=1.0)
    server.will_say(m=1.0)
    assert judge.preference("a", "b", "c") == pytest.approx(0.5)


def test_the_prompt_is_upstreams() -> None:
    system, user = judge_messages('Quote "x" {y}', "one", "two")
    assert system["content"].startswith("You are a highly efficient assistant, who evaluates")
    assert '"instruction": """Quote "x" {y}""",' in user["content"]
    assert '"model_identifier": "m",\n        "output": """one"""' in user["content"]
    assert user["content"].endswith("m or M.\n\n## Best Model Identifier\n")


def test_nonsense_is_refused(server: JudgeServer, judge: Judge) -> None:
    server.will_say(I=0.9, Both=0.1)
    with pytest.raises(EngineResponseError, match=r"neither 'm' nor 'M'.*\['Both', 'I'\]"):
        judge.preference("a", "b", "c")

    server.answers.append((200, {"choices": []}))
    with pytest.raises(EngineResponseError, match="without log-probabilities"):
        judge.preference("a", "b", "c")

    server.answers.append((400, {"error": "too long"}))
    with pytest.raises(EngineRequestError, match=r"status 400: .*too long"):
        judge.preference("a", "b", "c")


def test_a_judge_that_is_not_there() -> None:
    judge = Judge("http://127.0.0.1:9/v1", model="wise", timeout_s=2)
    with pytest.raises(EngineConnectionError, match="cannot be reached"):
        judge.preference("a", "b", "c")
    judge.close()


def test_another_judge_is_another_scorer() -> None:
    judges = [
        Judge(f"http://{host}/v1", model=model)
        for host, model in (("a", "wise"), ("a", "wiser"), ("b", "wise"), ("a", "wise"))
    ]
    first, other, elsewhere, same = (judge.identity.digest for judge in judges)
    assert len({first, other, elsewhere}) == 3
    assert same == first
    for judge in judges:
        judge.close()


class Longer:
    """Prefers the longer response."""

    def preference(self, instruction: str, response: str, reference: str) -> float:
        return float(len(response) > len(reference))


def test_the_file_of_the_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    rows = [{"instruction": "Say hi.", "output": "Hello", "generator": "gpt4"}] * 3
    path.write_text(json.dumps(rows), encoding="utf-8")

    task = named_task("alpaca_eval", n=2, seed=0, file=path, judge=Longer())

    assert [item.prompt_id for item in task.items] == ["alpaca-0", "alpaca-1"]
    assert (task.items[0].reward("Hello there"), task.items[0].reward("Hi")) == (1.0, 0.0)
    assert task.items[0].answer("Hi") is None


def baseline(path: Path, *lengths: int) -> Path:
    """References of so many characters to problems that the scripted model can answer."""
    items = ReferenceTask(len(lengths), seed=3).items
    rows = [
        {"instruction": item.prompt, "output": "x" * length}
        for item, length in zip(items, lengths, strict=True)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


PLAN = RecordingPlan(num_samples=2, seed=3)


async def test_win_rates_with_and_without_length(
    model: SelfEvaluatingModel, tmp_path: Path
) -> None:
    lengths = (10, 10_000, 40, 10_000)
    task = AlpacaEvalTask(baseline(tmp_path / "baseline.json", *lengths), judge=Longer())

    await record(model, task, PLAN, tmp_path / "kept")
    recording = load_recording(tmp_path / "kept")
    result = evaluate_recording(recording, methods="adaptive", seed=0)

    assert [prompt.reference_characters for prompt in recording.prompts] == list(lengths)
    assert all(s.text for prompt in recording.prompts for s in prompt.samples)
    win_rates = {row.method: row.quality.value for row in result.summaries}
    assert win_rates == {"one sample": 0.5, "best-of-2": 0.5, "adaptive": 0.5}
    assert set(result.length_controlled) == set(win_rates)
    for rate in result.length_controlled.values():
        assert 0.0 <= rate.low <= rate.high <= 1.0


async def test_a_judge_that_answers_nonsense_is_named_with_its_row(
    server: JudgeServer, judge: Judge, model: SelfEvaluatingModel, tmp_path: Path
) -> None:
    task = AlpacaEvalTask(baseline(tmp_path / "baseline.json", 10), judge=judge)
    for _ in range(4):
        server.will_say(Both=1.0)

    with pytest.raises(
        DatasetError,
        match=r"4 of 4 rewards failed.*prompt 'alpaca-0', sample 0 at temperature 1: "
        r"EngineResponseError: the judge answered neither 'm' nor 'M'",
    ):
        await record(model, task, PLAN, tmp_path / "kept")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"instruction": "a"}]', "row 0: 'output' must be text"),
        ("[1]", "row 0: 'instruction' must be text"),
        ("{}", "expected a JSON array"),
        ("[", "no JSON"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        AlpacaEvalTask(path, judge=Longer())


def test_what_alpaca_eval_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^file:"):
        named_task("alpaca_eval", n=None, seed=0, judge=Longer())
    with pytest.raises(ConfigurationError, match=r"^judge_url:"):
        named_task("alpaca_eval", n=None, seed=0, file=tmp_path / "x.json")
    with pytest.raises(ConfigurationError, match=r"^judge_url:"):
        named_task("reference", n=None, seed=0, judge=Longer())


def test_length_control() -> None:
    # Longer wins always, shorter loses always, as often one as the other: without length, even.
    prefers = [1.0] * 20 + [0.0] * 20
    assert length_controlled_win_rate(prefers, [20] * 20 + [0] * 20, [10] * 40) == pytest.approx(
        0.5, abs=0.15
    )
    # Length does not matter: it changes nothing.
    even = [1.0, 0.0, 1.0, 1.0] * 10
    lengths = [5] * 20 + [15] * 20
    assert length_controlled_win_rate(even, lengths, [10] * 40) == pytest.approx(0.75, abs=0.01)
    assert length_controlled_win_rate([0.7, 0.7], [10, 10], [10, 10]) == pytest.approx(
        0.7, abs=0.01
    )
    with pytest.raises(ConfigurationError, match="preferences"):
        length_controlled_win_rate([1.0], [1], [1])
