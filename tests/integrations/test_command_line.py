"""Commands on a real vLLM server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfeval_backend.cli.main import app
from tests.vllm_server import VllmServer


def run(*arguments: object) -> dict[str, object]:
    ran = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.stderr
    document: dict[str, object] = json.loads(ran.stdout)
    return document


@pytest.mark.slow
def test_a_server_is_evaluated_and_its_methods_run_for_real(
    vllm_server: VllmServer, tmp_path: Path
) -> None:
    small = ("--n", 2, "--samples", 2, "--checkpoints", "16", "--max-tokens", 80, "--seed", 1)
    document = run(
        *("eval", "--base-url", vllm_server.base_url, "--out", tmp_path, *small),
        *("--methods", "adaptive", "--live"),
    )

    recording, live = document["recording"], document["live"]
    assert isinstance(recording, dict)
    assert isinstance(live, dict)
    assert (recording["engine"], recording["checkpoints"]) == ("vllm-server", [16])
    assert list(live) == ["adaptive"]
    assert live["adaptive"]["tokens"] > 0
    assert run("eval", "--rollouts", tmp_path, "--methods", "adaptive")["num_prompts"] == 2


@pytest.mark.slow
def test_replicas_are_evaluated_together(vllm_server: VllmServer, tmp_path: Path) -> None:
    url = vllm_server.base_url
    both = ("--base-url", url, "--base-url", url.replace("127.0.0.1", "localhost"))
    small = ("--n", 2, "--samples", 2, "--checkpoints", "none", "--max-tokens", 80)

    assert run("eval", *both, "--out", tmp_path, *small)["num_prompts"] == 2
    assert run("demo", *both, "--n", 1)["n"] == 1
