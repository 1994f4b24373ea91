"""Checks of a server: the real one, and ones that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from selfeval_backend.doctor import Check, ModelFiles, Status, check_model_files
from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.settings import Settings
from tests.integrations.test_vllm_server import Answer, serving
from tests.vllm_server import VllmServer

NAMES = [
    "reachable",
    "model",
    "context length",
    "label logprobs",
    "token ids",
    "priorities",
    "prefix cache",
    "cached tokens",
    "aborts",
    "exact counts",
    "grammars",
    "min_p",
]


@dataclass
class Fake:
    """A server that answers as vLLM does, but for what is set here."""

    served: str = "m"
    max_model_len: int = 400
    gives_labels: bool = True
    gives_token_ids: bool = True
    refuses_priorities: bool = False
    caches: bool = True
    reports_cached: bool = True
    shows_metrics: bool = True
    aborts_by_name: bool = True
    says_config: bool = True
    follows_grammars: bool = True
    speculates: bool = False
    loads: tuple[int, ...] = (0, 1, 0)
    """Requests at looks at the metrics: before a long stream, at the first one after it began, and
    later."""
    generates: int = 5
    """Tokens of a stream that is dropped."""
    _seen: set[tuple[int, ...]] = field(default_factory=set)
    _num_looks: int = 0
    _streams: int = 0

    def __call__(self, path: str, body: dict[str, Any], asked: int) -> Answer:
        match path:
            case "/models":
                models = [{"id": self.served, "max_model_len": self.max_model_len}]
                return 200, json.dumps({"data": models})
            case "/version":
                return 200, '{"version": "0.32.0"}'
            case "/metrics":
                return (200, self._metrics()) if self.shows_metrics else (404, "none")
            case "/inference/v1/abort_requests":
                return (200, "") if self.aborts_by_name else (403, "disabled")
            case "/completions":
                return self._complete(body)
        raise AssertionError(path)

    def _metrics(self) -> str:
        config = f'vllm:cache_config_info{{a="b,}}",enable_prefix_caching="{self.caches}"}} 1.0\n'
        load = self.loads[min(self._num_looks, len(self.loads) - 1)]
        self._num_looks += self._streams
        return (
            "# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{engine="0"}} {load}.0\n'
            'vllm:num_requests_running{engine="1"} 0.0\n'
            'vllm:num_requests_waiting{engine="0"} 0.0\n'
            "# TYPE vllm:generation_tokens counter\n"
            f"vllm:generation_tokens_total {100 + self._streams * self.generates}.0\n"
            f"{config if self.says_config else ''}"
        )

    def _complete(self, body: dict[str, Any]) -> Answer:
        if body.get("stream"):
            return 206, self._stream(body["max_tokens"])
        if body.get("min_p") and self.speculates:
            return 400, '{"error": {"message": "min_p is not supported"}}'
        if "priority" in body and self.refuses_priorities:
            return 400, '{"error": {"message": "Priority scheduling is not enabled"}}'
        prompt = tuple(body["prompt"])
        cached = len(prompt) // 16 * 16 if self.caches and prompt in self._seen else 0
        self._seen.add(prompt)
        labels = body.get("logprob_token_ids", [])[0 if self.gives_labels else 1 :]
        top = {f"token_id:{label}": -1.0 for label in labels}
        usage: dict[str, Any] = {"prompt_tokens": len(prompt)}
        if self.reports_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        choice: dict[str, Any] = {"logprobs": {"top_logprobs": [top]}}
        if "structured_outputs" in body:
            choice["text"] = "Q" if self.follows_grammars else "a"
        return 200, json.dumps({"choices": [choice], "usage": usage})

    def _stream(self, max_tokens: int) -> str:
        choice: dict[str, Any] = {"text": "abcd", "finish_reason": "length"}
        if max_tokens > 4:
            self._streams += 1
            self._num_looks = 1
            choice["finish_reason"] = None
        if self.gives_token_ids:
            choice["token_ids"] = [1, 2, 3, 4]
        events = [{"choices": [choice]}, {"choices": [], "usage": {}}]
        return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


@pytest.fixture
def files(chat: ScriptedChat, config: SelfEvalConfig) -> ModelFiles:
    return ModelFiles(
        checks=(), evaluator=SelfEvaluator(config, chat), settings=Settings(prune_at=(64,))
    )


async def examine(
    reply: Callable[[str, dict[str, Any], int], Answer],
    files: ModelFiles,
    *,
    model: str = "m",
    timeout_s: float = 5.0,
) -> dict[str, Check]:
    """Return the checks by their names: always the same ones, with what to do where not well."""
    from selfeval_backend.doctor.server import check_server

    async with serving(reply) as url:
        checks = await check_server(url, model=model, api_key="k", files=files, timeout_s=timeout_s)
    assert [check.name for check in checks] == NAMES
    assert all(check.remedy for check in checks if check.status in ("warning", "failed"))
    return {check.name: check for check in checks}


def statuses(checks: dict[str, Check], *but: str) -> set[str]:
    """What is said of all others; of priorities nothing can be, where they are taken."""
    return {check.status for name, check in checks.items() if name not in (*but, "priorities")}


async def test_all_is_well(files: ModelFiles) -> None:
    checks = await examine(Fake(), files)

    assert statuses(checks) == {"ok"}
    assert checks["priorities"].status == "not checked"
    assert "vLLM 0.32.0" in checks["reachable"].found
    assert "384 of 399 tokens" in checks["prefix cache"].found


LACKING: dict[str, tuple[dict[str, Any], dict[str, Status]]] = {
    "labels": (
        {"gives_labels": False},
        {"label logprobs": "failed", "prefix cache": "not checked"}
        | {"cached tokens": "not checked"},
    ),
    "token ids": ({"gives_token_ids": False}, {"token ids": "warning", "aborts": "not checked"}),
    "grammars": ({"follows_grammars": False}, {"grammars": "warning"}),
    "speculation": ({"speculates": True}, {}),
    "last words": ({"aborts_by_name": False}, {"exact counts": "warning"}),
    "cached tokens": ({"reports_cached": False}, {"cached tokens": "warning"}),
    "cache": ({"caches": False}, {"prefix cache": "failed", "cached tokens": "not checked"}),
    "metrics": ({"shows_metrics": False}, {"aborts": "not checked"}),
    "metrics and cached tokens": (
        {"shows_metrics": False, "reports_cached": False},
        {"aborts": "not checked", "prefix cache": "not checked", "cached tokens": "warning"},
    ),
    "configuration": (
        {"says_config": False, "reports_cached": False},
        {"prefix cache": "not checked", "cached tokens": "warning"},
    ),
    "room": ({"max_model_len": 64}, {"context length": "failed"}),
    "aborts": ({"loads": (0, 1, 1)}, {"aborts": "failed"}),
    "calm before": ({"loads": (3, 1, 0)}, {"aborts": "not checked"}),
    "calm meanwhile": ({"loads": (0, 4, 0)}, {"aborts": "not checked"}),
    "calm after": ({"loads": (0, 1, 2)}, {"aborts": "not checked"}),
    "long streams": ({"generates": 1000}, {"aborts": "not checked"}),
    "streams that are seen": ({"loads": (0, 0, 0)}, {"aborts": "not checked"}),
}


@pytest.mark.parametrize("lacks", LACKING)
async def test_what_a_server_lacks_is_said_and_the_rest_is_well(
    lacks: str, files: ModelFiles
) -> None:
    fake, expected = LACKING[lacks]

    checks = await examine(Fake(**fake), files)

    assert {name: checks[name].status for name in expected} == expected
    assert statuses(checks, *expected) == {"ok"}


async def test_a_model_whose_min_p_the_server_refuses_is_not_well(files: ModelFiles) -> None:
    wants = replace(files, settings=Settings(min_p=0.1))

    checks = await examine(Fake(speculates=True), wants)

    assert checks["min_p"].status == "failed"
    assert "0.1" in checks["min_p"].found
    assert statuses(checks, "min_p") == {"ok"}


async def test_priorities_that_are_refused_are_a_warning(files: ModelFiles) -> None:
    checks = await examine(Fake(refuses_priorities=True), files)

    assert checks["priorities"].status == "warning"
    assert "--scheduling-policy priority" in (checks["priorities"].remedy or "")
    assert statuses(checks) == {"ok"}


async def test_a_model_that_is_not_served(files: ModelFiles) -> None:
    checks = await examine(Fake(served="other"), files)

    assert checks["model"].status == "failed"
    assert checks["model"].found == "serves other, and not m"
    assert statuses(checks, "reachable", "model") == {"not checked"}


async def test_without_the_models_files_the_server_is_still_looked_at() -> None:
    checks = await examine(Fake(), ModelFiles(checks=()))

    assert checks["context length"].status == "not checked"
    assert statuses(checks, "context length") == {"ok"}


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ((401, "who?"), "AIC_API_KEY"),
        ((404, "what?"), "/v1"),
        ((500, "oh"), "log"),
        ((200, "<html>"), "vLLM"),
        ((200, '{"data": [{"id": "gpt"}]}'), "vLLM"),
        ((0, ""), "timeout"),
    ],
)
async def test_a_server_that_does_not_answer_as_vllm_does(
    answer: Answer, remedy: str, files: ModelFiles
) -> None:
    checks = await examine(lambda *_: answer, files, timeout_s=0.2)

    assert checks["reachable"].status == "failed"
    assert remedy in (checks["reachable"].remedy or "")
    assert statuses(checks, "reachable") == {"not checked"}


async def test_an_adapter_has_the_context_of_its_model(files: ModelFiles) -> None:
    models = [{"id": "base", "max_model_len": 300}, {"id": "m", "max_model_len": None}]
    models[1]["parent"] = "base"
    fake = Fake()

    def reply(path: str, body: dict[str, Any], asked: int) -> Answer:
        if path == "/models":
            return 200, json.dumps({"data": models})
        return fake(path, body, asked)

    checks = await examine(reply, files)

    assert checks["context length"].found.startswith("300 tokens")


@pytest.mark.slow
async def test_the_real_server_is_well(vllm_server: VllmServer) -> None:
    from selfeval_backend.doctor.server import check_server

    files = check_model_files("reference", with_weights=False)
    checks = await check_server(vllm_server.base_url, model="reference", api_key=None, files=files)

    assert [check.name for check in checks] == NAMES
    assert {check.name for check in checks if check.status != "ok"} == {"priorities"}


@pytest.mark.slow
def test_the_command_on_the_real_server(vllm_server: VllmServer) -> None:
    command = [sys.executable, "-m", "selfeval_backend", "doctor", "--json", "--model", "reference"]
    ran = subprocess.run(
        [*command, "--base-url", vllm_server.base_url], capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["ok"]
