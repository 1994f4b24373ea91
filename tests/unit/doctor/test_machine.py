"""What this machine would run a model with."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from selfeval_backend import model as model_module
from selfeval_backend.doctor import Check, check_machine
from selfeval_backend.doctor import machine as machine_module


def named(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it seem that vLLM is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name)
    )


def fake_torch(monkeypatch: pytest.MonkeyPatch, *, gpus: int) -> None:
    """Let torch see so many GPUs."""
    properties = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    cuda = SimpleNamespace(
        is_available=lambda: gpus > 0,
        device_count=lambda: gpus,
        get_device_properties=lambda index: properties,
    )
    version = SimpleNamespace(cuda="12.8")
    torch = SimpleNamespace(cuda=cuda, version=version, __version__="2.13.0")
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]  # a double


@pytest.mark.usefixtures("no_vllm")
def test_without_vllm_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, gpus=0)

    checks = named(check_machine(engine=None, on_server=False))

    assert list(checks) == ["python", "engine", "packages", "gpu", "vllm"]
    assert checks["engine"].found.startswith("transformers: ")
    assert checks["vllm"].status == "ok"
    assert "CPU" in checks["gpu"].found


@pytest.mark.usefixtures("no_vllm")
def test_a_gpu_without_vllm_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, gpus=2)

    checks = named(check_machine(engine=None, on_server=False))

    assert checks["engine"].status == "warning"
    assert "[vllm]" in (checks["engine"].remedy or "")
    assert checks["gpu"].found.startswith("H100 (80 GiB), H100 (80 GiB)")


@pytest.mark.usefixtures("no_vllm")
def test_vllm_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, gpus=0)

    checks = named(check_machine(engine="vllm", on_server=False))

    assert checks["engine"].found == "vllm, as asked"
    assert checks["vllm"].status == "failed"


def test_vllm_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, gpus=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it raises

    checks = named(check_machine(engine=None, on_server=False))

    assert checks["engine"].found.startswith("vllm: ")
    assert checks["vllm"].status == "failed"
    assert "cannot be imported" in checks["vllm"].found


def test_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", None)

    checks = named(check_machine(engine=None, on_server=False))

    assert checks["engine"].status == "not checked"
    assert checks["gpu"].status == "failed"


def test_a_server_needs_neither_torch_nor_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    checks = named(check_machine(engine=None, on_server=True))

    assert list(checks) == ["python", "engine", "packages"]
    assert "server" in checks["engine"].found


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "pydantic>=2",
        "absent>=1; extra == 'server'",
        "aged>=5,<6; extra == 'server'",
        "fresh>=1; extra == 'inner'",
        "adaptive-inference-compute[inner]; extra == 'server'",
        "other>=9; extra == 'vllm'",
    ]
    installed = {"adaptive-inference-compute": "1", "aged": "4.9", "fresh": "2.0+cpu"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(metadata, "version", version)

    check = named(check_machine(engine=None, on_server=True))["packages"]
    assert check.status == "failed"
    assert check.found == "absent is not installed, aged 4.9 is not <6,>=5"
    assert check.remedy == "pip install 'adaptive-inference-compute[server]'"

    installed |= {"absent": "1.2", "aged": "5.1"}
    check = named(check_machine(engine=None, on_server=True))["packages"]
    assert (check.status, check.found) == ("ok", "absent 1.2, aged 5.1, fresh 2.0+cpu")


def test_the_engine_is_the_one_that_load_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, gpus=0)
    assert machine_module.choose_engine is model_module.choose_engine
    chosen = model_module.choose_engine()

    engine = named(check_machine(engine=None, on_server=False))["engine"]

    assert engine.found.startswith(f"{chosen}: ")
