"""Forty architecture families on the transformers engine, as the docs have them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="the extra with transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra is not installed")

from transformers import GPTNeoXConfig  # noqa: E402

from selfeval_backend.engine.transformers.architecture import check_architecture  # noqa: E402
from selfeval_backend.engine.transformers.probe import probe_config  # noqa: E402
from selfeval_backend.errors import ConfigurationError  # noqa: E402

ROOT = Path(__file__).parents[2]


def command() -> ModuleType:
    """Return the module of the command; a folder of scripts is no package."""
    name = "aic_benchmarks_families"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "families.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = command()
torch.set_num_threads(1)  # with such small matrices threads only wait for each other
SAID = families.rows_of_page(families.PAGE.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", families.FIXED)
def test_a_family_does_what_the_docs_say(family: str) -> None:
    verdict = families.examine(family)
    assert verdict.status in ("works", "refused"), verdict.why
    shown = f"{verdict.status}: {verdict.why}" if verdict.why else verdict.status
    assert SAID[family] == shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", families.FIXED)
def test_the_config_alone_says_what_the_engine_says(family: str) -> None:
    config = families.tiny_config(family)
    if SAID[family].startswith("works"):
        assert probe_config(config).context_length == families.CONTEXT
    else:
        with pytest.raises(ConfigurationError):
            probe_config(config)


def test_forty_families_are_fixed_and_on_the_page() -> None:
    assert len(set(families.FIXED)) == 40
    assert set(families.FIXED) <= set(SAID)
    assert not [family for family, said in SAID.items() if "WRONG" in said]


def test_decoders_that_do_not_call_themselves_so_are_taken() -> None:
    config = GPTNeoXConfig()
    assert config.is_decoder is False
    assert check_architecture(config).name == "GPTNeoXForCausalLM"
