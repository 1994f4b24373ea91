"""The command line, over models that are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from selfeval_backend import model as model_module
from selfeval_backend.cli import running
from selfeval_backend.cli.main import app
from selfeval_backend.model import SelfEvaluatingModel


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    stdout: str
    stderr: str


Aic = Callable[..., Ran]
UseModel = Callable[[SelfEvaluatingModel], None]


@pytest.fixture(autouse=True)
def _nothing_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that would fetch a model fail, and not wait for a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")


@pytest.fixture
def aic() -> Aic:
    """Run `aic` with these arguments; what is no error of ours is raised."""

    def run(*args: object) -> Ran:
        result = CliRunner().invoke(
            app, [str(arg) for arg in args], prog_name="aic", catch_exceptions=False
        )
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def use_model(monkeypatch: pytest.MonkeyPatch) -> UseModel:
    """Let `load_model` return this one."""

    def use(model: SelfEvaluatingModel) -> None:
        def load(name: str, **_: object) -> SelfEvaluatingModel:
            return model

        monkeypatch.setattr(model_module, "load_model", load)
        monkeypatch.setattr(running, "fetch_first", lambda name: None)

    return use
