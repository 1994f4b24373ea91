"""All commands with what cannot be used: one line, exit status 2, no token, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfeval_backend.errors import ConfigurationError, ModelFilesError
from selfeval_backend.files import locked
from selfeval_backend.model import REFERENCE_FOLDER
from selfeval_backend.samples.store import save_recording
from selfeval_backend.web import check_url, open_client
from tests.conftest import ModelFactory
from tests.unit.cli.conftest import Aic, Ran, UseModel
from tests.unit.evaluation.test_tuning import knowing
from tests.unit.samples.puzzler import Puzzler

URL = "http://127.0.0.1:9/v1"
RECIPE = str(Path(__file__).parents[3] / "reference_model" / "reference.yaml")


def check(ran: Ran, *said: str) -> None:
    errors = [line for line in ran.stderr.splitlines() if line.startswith("aic: error: ")]
    assert (ran.status, len(errors)) == (2, 1), ran.stderr
    assert ran.stderr.splitlines()[-1] == errors[0]
    for part in said:
        assert part in errors[0]


@pytest.fixture(autouse=True)
def _elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


ASK = ("ask", "Hi", "--model", "reference")
SERVED = [ASK, ("demo", "--n", "1"), ("eval", "--n", "1"), ("doctor", "--model", "reference")]
BAD_URLS = [
    "http://127.0.0.1:99999/v1",
    "http://127.0.0.1:0/v1",
    "http://127.0.0.1:-1/v1",
    "http://127.0.0.1:port/v1",
    "http://" + "a" * 70 + ".example/v1",
    "http://a..b/v1",
    "http://:8000/v1",
    "http://ho st/v1",
    "http://host/v1?key=1",
    "ftp://host/v1",
    "host:8000",
    "http://[::1/v1",
    "",
]


@pytest.mark.parametrize("command", SERVED, ids=lambda command: command[0])
@pytest.mark.parametrize("url", BAD_URLS[:1])
def test_a_url_that_can_be_none_is_refused_by_every_command(
    aic: Aic, command: tuple[str, ...], url: str
) -> None:
    check(aic(*command, "--base-url", url), "base_url: got ")


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_can_be_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="judge_url"):
        check_url(url, field="judge_url")


@pytest.mark.parametrize(
    "url",
    [URL, "https://host/v1", "http://[::1]:8000/v1", "http://bücher.example:65535", "http://h"],
)
def test_a_url_that_can_be_one(url: str) -> None:
    check_url(url)


BAD_PROXIES = [
    ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1"),
    ("HTTP_PROXY", "gopher://user:secret@host"),
    ("HTTPS_PROXY", "http://[::1"),
    ("all_proxy", "http://host:port"),
]


@pytest.fixture(params=BAD_PROXIES, ids=lambda pair: pair[0] + pair[1][:4])
def bad_proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, value = request.param
    if value.startswith("socks"):
        monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv(name, value)
    return str(name)


@pytest.mark.parametrize("command", [SERVED[0], SERVED[3]], ids=lambda command: command[0])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    aic: Aic, bad_proxy: str, command: tuple[str, ...]
) -> None:
    ran = aic(*command, "--base-url", URL)

    check(ran, f"proxy: got '{bad_proxy}'")
    assert "secret" not in ran.stderr


def test_the_judge_goes_the_same_way(
    aic: Aic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    task = ("eval", "--task", "alpaca_eval", "--file", "a.json", "--judge-model", "m")

    check(aic(*task, "--judge-url", BAD_URLS[0]), "judge_url: got ")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    check(aic(*task, "--judge-url", URL), "certificates: got 'SSL_CERT_FILE")


@pytest.mark.parametrize("command", [*SERVED[:3]], ids=lambda command: command[0])
def test_the_hub_goes_the_same_way(aic: Aic, bad_proxy: str, command: tuple[str, ...]) -> None:
    ran = aic(*command, "--model", "nobody/nothing")

    check(ran, "model: nobody/nothing is no folder here")
    assert "secret" not in ran.stderr


def test_certificates_of_the_environment_that_cannot_be_read(
    aic: Aic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    check(aic(*ASK, "--base-url", URL), "certificates: got 'SSL_CERT_FILE")


def test_a_fault_of_ours_is_not_blamed_on_the_environment() -> None:
    def fail() -> None:
        raise AttributeError

    with pytest.raises(AttributeError):
        open_client(fail)


BROKEN: dict[str, tuple[str, bytes]] = {
    "no JSON": ("generation_config.json", b"{"),
    "a list": ("generation_config.json", b"[]"),
    "ends that are text": ("generation_config.json", b'{"eos_token_id": "</s>"}'),
    "negative ends": ("generation_config.json", b'{"eos_token_id": [-1]}'),
    "long ends": ("generation_config.json", b'{"eos_token_id": ' + b"9" * 5000 + b"}"),
    "Latin-1": ("generation_config.json", b'{"a": "\xe9"}'),
    "config": ("config.json", b"{"),
    "config that is a list": ("config.json", b"[1]"),
    "config without a type": ("config.json", b"{}"),
    "config of another type": ("config.json", b'{"model_type": "nothing"}'),
    "tokenizer": ("tokenizer.json", b"{"),
    "tokenizer that is a list": ("tokenizer.json", b"[]"),
    "tokenizer config": ("tokenizer_config.json", b"[]"),
    "template": ("chat_template.jinja", b"\xff"),
    "selfeval.json": ("selfeval.json", b'{"version": 1, "version": 1}'),
    "selfeval.json of 5,000 digits": ("selfeval.json", b'{"version": ' + b"9" * 5000 + b"}"),
    "weights": ("model.safetensors", b"\xff" * 64),
    "weights cut off": ("model.safetensors", b""),
}


@pytest.fixture
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(REFERENCE_FOLDER, folder)
    name, body = BROKEN[request.param]
    (folder / name).write_bytes(body)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_models_broken_file_is_refused(aic: Aic, broken: Path) -> None:
    check(aic("ask", "Hi", "--model", broken), str(broken))
    assert aic("doctor", "--model", broken).status in (0, 1)  # it says what is broken, if it looks


def test_the_size_of_a_checkpoint_whose_weights_are_broken(tmp_path: Path) -> None:
    from selfeval_backend.model import count_parameters

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelFilesError, match="cannot be read"):
        count_parameters(tmp_path)


@pytest.fixture
def in_the_way(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file"


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    save_recording(tmp_path / "rollouts", knowing(44))
    return tmp_path / "rollouts"


@pytest.fixture
def never(use_model: UseModel, make_model: ModelFactory) -> None:
    """A model that must not be asked."""

    def script(_: object) -> None:
        raise AssertionError("a token was paid for")

    use_model(make_model(script, name="reference"))


@pytest.mark.usefixtures("never", "rollouts")
@pytest.mark.parametrize("out", ["file", "file/x", "/dev/full", "/dev/full/x", "n" * 300])
@pytest.mark.parametrize(
    "command",
    [
        ("eval", "--n", "1", "--out"),
        ("tune", "--rollouts", "rollouts", "--model", "reference", "--out"),
        ("train", "--config", RECIPE, "--set", "folder="),
    ],
    ids=lambda command: command[0] + command[-1],
)
def test_where_nothing_can_be_written_is_known_before_a_token(
    aic: Aic, in_the_way: Path, command: tuple[str, ...], out: str
) -> None:
    *words, option = command
    last = (option + out,) if option.endswith("=") else (option, out)
    check(aic(*words, *last), "cannot be written")


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "Hi", "--seed", "9" * 5000),
        ("ask", "Hi", "--prune-at", "9" * 5000),
        ("ask", "Hi", "--keep", "nan"),
        ("ask", "Hi", "--threshold", "nan"),
        ("ask", "Hi", "--temperature", "inf"),
        ("ask", "Hi", "--max-seconds", "nan"),
        ("demo", "--n", "9" * 5000),
        ("eval", "--checkpoints", "9" * 5000),
        ("eval", "--temperature", "nan"),
        ("eval", "--task", "n" * 300),
        ("eval", "--file", "x", "--task", "gsm8k"),
        ("eval", "--rollouts", "n" * 300),
        ("tune", "--rollouts", "rollouts", "--keep-quality", "nan"),
        ("tune", "--rollouts", "rollouts", "--max-samples-mean", "inf"),
        ("tune", "--rollouts", "file"),
        ("train", "--config", "n" * 300),
        ("train", "--config", "rollouts"),
        ("train", "--config", RECIPE, "--set", "seed=" + "9" * 5000),
        ("train", "--config", RECIPE, "--set", "rollouts.samples=.nan"),
        ("train", "--config", RECIPE, "--set", "finetune.learning_rate=.nan"),
        ("train", "--config", RECIPE, "--set", "finetune.learning_rate=.inf"),
        ("doctor", "--model", "n" * 300),
    ],
    ids=lambda command: " ".join(command)[:40],
)
@pytest.mark.usefixtures("never", "rollouts")
def test_an_option_that_cannot_be_used(
    aic: Aic, in_the_way: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = aic(*command)

    assert ran.status in (
        (1, 2) if command[0] == "doctor" else (0, 2) if "a\nb" in command else (2,)
    )


@pytest.mark.usefixtures("never")
def test_a_second_run_in_one_folder_is_refused_and_told_of_the_first(
    aic: Aic, tmp_path: Path
) -> None:
    with locked(tmp_path / "one"):
        check(aic("eval", "--n", "1", "--out", "one"), "no other run works (process ")
        check(aic("train", "--config", RECIPE, "--set", "folder=one"), "no other run works")


def test_two_runs_in_two_folders_are_none_of_each_others_business(
    aic: Aic, use_model: UseModel, make_model: ModelFactory, tmp_path: Path
) -> None:
    use_model(make_model(Puzzler(), name="reference"))
    small = ("eval", "--n", 2, "--samples", 2, "--checkpoints", "none")
    with locked(tmp_path / "one"):
        assert aic(*small, "--out", "two").status == 0
    use_model(make_model(Puzzler(), name="reference"))
    assert aic(*small, "--out", "one").status == 0
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_that_fails_below_us_is_one_line_and_a_fault_of_ours_is_not_hidden(
    aic: Aic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Callable[..., None]:
        def load(name: str, **_: object) -> None:
            raise error

        return load

    target = "selfeval_backend.model.load_model"
    monkeypatch.setattr(target, failing(PermissionError(13, "Permission denied", "/a/file")))
    check(aic(*ASK), "/a/file: Permission denied")
    monkeypatch.setattr(target, failing(OSError("something")))
    with pytest.raises(OSError, match="something"):
        aic(*ASK)
