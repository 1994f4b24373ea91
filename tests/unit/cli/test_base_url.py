"""``--base-url``: wherever the option stands, it takes a server, or several."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from selfeval_backend import model as model_module
from selfeval_backend.cli.main import app
from selfeval_backend.cli.options import BaseUrls
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.model import Server
from tests.unit.cli.conftest import Aic

ONE = "http://127.0.0.1:8000/v1"
TWO = "http://127.0.0.1:8001/v1"


@pytest.fixture
def asked_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Server | None]:
    """Servers that a model was looked for on; none has it."""
    found: list[Server | None] = []

    def load(name: str, *, server: Server | None, **_: object) -> None:
        found.append(server)
        raise ConfigurationError("model", name, "one that is served")

    monkeypatch.setattr(model_module, "load_model", load)
    monkeypatch.setenv("AIC_API_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    return found


COMMANDS = [("ask", "Hi", "--model", "reference"), ("demo", "--n", "1"), ("eval", "--n", "1")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(("urls", "expected"), [((ONE,), ONE), ((ONE, TWO), (ONE, TWO))], ids=len)
def test_the_servers_are_the_ones_that_were_given(
    aic: Aic,
    asked_of: list[Server | None],
    command: tuple[str, ...],
    urls: tuple[str, ...],
    expected: object,
) -> None:
    given = [word for url in urls for word in ("--base-url", url)]

    assert aic(*command, *given).status == 2
    assert asked_of == [Server(base_url=expected, api_key="secret")]  # type: ignore[arg-type]


def test_every_command_that_takes_a_server_takes_it_by_the_one_option() -> None:
    taken: dict[str, Any] = {}
    for command in app.registered_commands:
        assert command.callback is not None
        parameters = inspect.signature(command.callback, eval_str=True).parameters
        if "base_url" in parameters:
            taken[str(command.name)] = parameters["base_url"].annotation

    assert taken == dict.fromkeys(("ask", "demo", "doctor", "eval"), BaseUrls)
