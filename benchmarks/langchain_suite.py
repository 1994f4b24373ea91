"""LangChain's own integration suite over `ChatAdaptive` and over `ChatOpenAI`, on one vLLM server.

Every test that the suite has, with nothing excused: tools, tool choice, structured output and JSON
mode are all said to be there. Prints a table in Markdown of the tests that either of the two does
not pass, with the reason in the suite's words. Needs langchain-openai, which nothing else does.

    python benchmarks/langchain_suite.py [--backend auto]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from typing import Any

import pytest
from common import serve
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from aic_integrations.langchain import ChatAdaptive

BASE_URL = "AIC_SUITE_BASE_URL"
SERVER = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
BACKENDS = ("guidance", "auto")
"""Of vLLM's structured outputs: the one that this project advises, and vLLM's default."""


class _OnTheServer(ChatModelIntegrationTests):
    __test__ = False

    @property
    def has_tool_choice(self) -> bool:
        """Yes: nothing is excused."""
        return True

    @property
    def has_structured_output(self) -> bool:
        """Yes: nothing is excused."""
        return True

    @property
    def supports_json_mode(self) -> bool:
        """Yes: nothing is excused."""
        return True


class TestAdaptive(_OnTheServer):
    """Ours, as the model ships."""

    __test__ = True

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """What is tested."""
        return ChatAdaptive

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """What it is made with."""
        return {"model": "reference", "base_url": os.environ[BASE_URL], "seed": 0}


class TestOpenAI(_OnTheServer):
    """LangChain's own for servers of this kind."""

    __test__ = True

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """What is tested."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """What it is made with."""
        url = os.environ[BASE_URL]
        return {"model": "reference", "base_url": url, "api_key": "none", "seed": 0}


class Outcomes:
    """A plugin of pytest that keeps what became of every test."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of the call, or of a setup that skipped or failed."""
        if report.when != "call" and report.outcome == "passed":
            return
        _, kind, name = report.nodeid.split("::", 2)
        self.found.setdefault(name, {})[kind] = _said(report)


def _said(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return "passes"
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return "skipped: " + str(reason).removeprefix("Skipped: ").splitlines()[0]
    crash = getattr(report.longrepr, "reprcrash", None)
    first = (crash.message if crash else str(report.longrepr)).strip().splitlines()[0]
    return "fails: " + first.replace("|", "\\|")[:140]


def table(found: dict[str, dict[str, str]]) -> str:
    """Return the tests that one of the two does not pass, and how many both pass."""
    kinds = ("TestAdaptive", "TestOpenAI")
    lines = ["| test | `ChatAdaptive` | `ChatOpenAI` |", "|---|---|---|"]
    for name, outcome in sorted(found.items()):
        said = [outcome.get(kind, "-") for kind in kinds]
        if said != ["passes", "passes"]:
            lines.append(f"| `{name}` | {said[0]} | {said[1]} |")
    counts = [Counter(o.get(k, "-").split(":")[0] for o in found.values()) for k in kinds]
    cells = [", ".join(f"{n} {what}" for what, n in sorted(c.items())) for c in counts]
    lines.append(f"| all {len(found)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> int:
    """Serve, run both, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    backend = json.dumps({"backend": parser.parse_args().backend})
    warnings.simplefilter("ignore")
    outcomes = Outcomes()
    with serve(*SERVER, "--structured-outputs-config", backend) as server:
        os.environ[BASE_URL] = server.base_url
        arguments = [__file__, "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--tb=no"]
        pytest.main([*arguments, "-o", "asyncio_mode=auto"], plugins=[outcomes])
    print(table(outcomes.found))
    return 0 if outcomes.found else 1


if __name__ == "__main__":
    sys.exit(main())
