"""This machine: which engine it would run, and whether that engine's packages are there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from selfeval_backend.doctor.check import Check, failed, not_checked, ok, warning
from selfeval_backend.model import EngineName, choose_engine

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["check_machine"]

_PROJECT = "adaptive-inference-compute"
_SERVER = "server"


def check_machine(*, engine: EngineName | None, on_server: bool) -> tuple[Check, ...]:
    """Return what this machine would run a model with, and whether it can.

    Imports torch, and vLLM where that would run the model: only then is it known that they work.

    Args:
        engine: None: the one that `load_model` would choose.
        on_server: Whether a server runs the model; then neither torch nor vLLM is needed.
    """
    if on_server:
        used = ok("engine", "the server, over HTTP, as a base URL is given")
        return (_python(), used, _packages(_SERVER))
    torch = _imported("torch")
    gpu = _gpu(torch)
    if engine is None and isinstance(torch, Exception) and _is_installed("vllm"):
        cannot = not_checked("engine", "it is chosen by whether torch sees a GPU; see there")
        return (_python(), cannot, gpu)
    chosen = engine or choose_engine()
    return (
        _python(),
        _engine(chosen, torch, asked=engine is not None),
        _packages(chosen),
        gpu,
        _vllm(used=chosen == "vllm"),
    )


def _python() -> Check:
    return ok(
        "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{_PROJECT} {_version(_PROJECT) or 'from a source tree'}"
    )  # fmt: skip


def _engine(chosen: EngineName, torch: ModuleType | Exception, *, asked: bool) -> Check:
    if asked:
        return ok("engine", f"{chosen}, as asked")
    if chosen == "vllm":
        return ok("engine", "vllm: it is installed, and there is a GPU")
    if _is_installed("vllm"):
        return ok("engine", "transformers: vLLM is installed, but there is no GPU")
    if not isinstance(torch, Exception) and torch.cuda.is_available():
        return warning(
            "engine",
            "transformers: there is a GPU, but vLLM is not installed",
            remedy=f"vLLM serves many samples faster: {_install('vllm')}",
        )
    return ok("engine", "transformers: vLLM is not installed, and there is no GPU")


def _packages(extra: str) -> Check:
    """Return whether all that an extra names is installed, in the versions that it wants."""
    name = "packages"
    if _version(_PROJECT) is None:
        return not_checked(
            name, f"{_PROJECT} runs from a source tree", remedy=f"Install it: {_install(extra)}"
        )
    there: list[str] = []
    wrong: list[str] = []
    for wanted in sorted(_requirements(extra), key=lambda r: r.name):
        version = _version(wanted.name)
        if version is None:
            wrong.append(f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} is not {wanted.specifier}")
        else:
            there.append(f"{wanted.name} {version}")
    if wrong:
        return failed(name, ", ".join(wrong), remedy=_install(extra))
    return ok(name, ", ".join(there))


def _requirements(extra: str) -> Iterator[Requirement]:
    """Yield what an extra of this project asks for, those of extras within it too."""
    for text in metadata.requires(_PROJECT) or ():
        wanted = Requirement(text)
        if wanted.marker is None or not wanted.marker.evaluate({"extra": extra}):
            continue
        if wanted.name == _PROJECT:
            for inner in wanted.extras:
                yield from _requirements(inner)
        else:
            yield wanted


def _gpu(torch: ModuleType | Exception) -> Check:
    name = "gpu"
    if isinstance(torch, ModuleNotFoundError) and torch.name == "torch":
        return failed(name, "torch is not installed", remedy=_install("transformers"))
    if isinstance(torch, Exception):
        return failed(
            name,
            f"torch cannot be imported: {_reason(torch)}",
            remedy="Reinstall it: pip install --force-reinstall torch",
        )
    cuda = torch.cuda
    if not cuda.is_available():
        return ok(name, f"none that torch {torch.__version__} sees: the model runs on the CPU")
    devices = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    shown = ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices)
    return ok(name, f"{shown}; torch {torch.__version__}, CUDA {torch.version.cuda}")


def _vllm(*, used: bool) -> Check:
    name = "vllm"
    if not _is_installed("vllm"):
        if used:
            return failed(name, "not installed", remedy=_install("vllm"))
        return ok(name, "not installed, and not needed")
    if not used:
        return ok(name, f"{_version('vllm')} is installed, and not needed (--engine vllm takes it)")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    vllm = _imported("vllm")
    if isinstance(vllm, Exception):
        return failed(
            name,
            f"{_version('vllm')} cannot be imported: {_reason(vllm)}",
            remedy="Builds of torch, torchvision and vLLM must fit each other: see `pip check`.",
        )
    return ok(name, f"{vllm.__version__} can be imported")


def _imported(name: str) -> ModuleType | Exception:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # builds that do not fit raise whatever they like
        return error


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _install(extra: str) -> str:
    return f"pip install '{_PROJECT}[{extra}]'"
