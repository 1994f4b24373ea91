"""Build wheel and sdist, and try the wheel as users will: an empty environment for each extra.

    python packaging/release.py                  # all extras but vllm
    python packaging/release.py --only langchain,transformers
    python packaging/release.py --first "torch==2.13.0"

Needs the package `build`. Fails at the first extra that does not do what it is for; see `EXTRAS`.
`vllm` is tried only if it is named: its build for the machine at hand may be another package.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
ASK = ("ask", "Use 3, 19 and 25 to make 41.", "--model", "reference", "--seed", "0", "--json")
REFUSED = 2
"""Exit status of `aic` where what it needs is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What one extra is for."""

    imports: str
    """Runs in an environment that has this extra alone."""
    engine: bool = False
    """Whether it brings an engine, so that `aic ask` answers; otherwise it says what is missing."""


EXTRAS = {
    "": Extra(imports="from selfeval_backend import Settings, Usage; Settings()"),
    "agents": Extra(imports="from aic_integrations.langchain import ConfidenceGate"),
    "datasets": Extra(imports="import datasets, selfeval_backend"),
    "eval": Extra(
        imports="import httpx, math_verify, matplotlib, numpy, pyarrow, selfeval_backend"
    ),
    "langchain": Extra(imports="from aic_integrations.langchain import ChatAdaptive"),
    "llama-index": Extra(imports="from aic_integrations.llama_index import AdaptiveLLM"),
    "ray": Extra(imports="import ray.data, selfeval_backend"),
    "server": Extra(imports="from selfeval_backend.engine import server"),
    "telemetry": Extra(imports="import opentelemetry.trace, selfeval_backend.telemetry"),
    "train": Extra(imports="from selfeval_backend import training", engine=True),
    "transformers": Extra(
        imports="from selfeval_backend.engine import transformers; "
        "from selfeval_backend.model_store import check_can_fetch; check_can_fetch()",
        engine=True,
    ),
    "vllm": Extra(imports="import vllm, selfeval_backend.engine.vllm", engine=True),
}
LEFT_OUT = ("vllm",)
"""Not tried unless named."""
_NOT_IN_WHEEL = ("tests/", "benchmarks/", "docs/", "examples/")


def main() -> None:
    """Build, look into what was built, and try every extra."""
    options = _options()
    wheel, sdist = build()
    check_contents(wheel, sdist)
    for name in options.only or [extra for extra in EXTRAS if extra not in LEFT_OUT]:
        print(f"== {name or 'no extra'}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try_extra(name, wheel, Path(folder), first=options.first)
    left_out = [name for name in LEFT_OUT if name not in options.only]
    print(f"{wheel.name} and {sdist.name} do what they should.")
    if left_out and not options.only:
        print(f"Not tried: {', '.join(left_out)}.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build wheel and sdist, and try the wheel.")
    parser.add_argument("--only", type=_names, default=[], help="Extras, with commas between them.")
    parser.add_argument("--first", default="", help="A requirement to install before the wheel.")
    return parser.parse_args()


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := [name for name in names if name not in EXTRAS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(EXTRAS)}")
    return names


def build() -> tuple[Path, Path]:
    """Build into an empty ``dist``; return wheel and sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Fail where the wheel lacks the reference model, or holds what is none of a user's."""
    with ZipFile(wheel) as opened:
        names = opened.namelist()
    for wanted in ("py.typed", "model.safetensors", "selfeval.json", "LICENSE"):
        _check(any(name.endswith(wanted) for name in names), f"{wanted} is not in the wheel")
    strays = [name for name in names if name.startswith(_NOT_IN_WHEEL)]
    _check(not strays, f"{strays[:1]} is in the wheel")
    with tarfile.open(sdist) as opened:
        files = {name.partition("/")[2] for name in opened.getnames()}
    missing = {"README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "mkdocs.yml"} - files
    _check(not missing, f"{sorted(missing)} is not in the sdist")


def try_extra(name: str, wheel: Path, folder: Path, *, first: str) -> None:
    """Install the wheel with one extra into an empty environment, and do what it is for."""
    extra = EXTRAS[name]
    venv.create(folder, with_pip=True)
    python, aic = folder / "bin/python", folder / "bin/aic"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if first and extra.engine:
        _run(*pip, first)
    _run(*pip, f"{wheel}[{name}]" if name else str(wheel))
    _run(python, "-c", extra.imports)
    _run(aic, "--version")
    asked = subprocess.run([aic, *ASK], cwd=folder, capture_output=True, text=True, check=False)
    if extra.engine:
        _check(asked.returncode == 0 and "confidence" in asked.stdout, f"aic ask: {asked.stderr}")
    else:
        _check(asked.returncode == REFUSED, f"aic ask with no engine: {asked.stderr}")
        _check("adaptive-inference-compute[" in asked.stderr, f"no extra named: {asked.stderr}")


def _run(*command: object) -> None:
    # In another folder: the wheel is to be imported, and not the source tree.
    subprocess.run(list(map(str, command)), cwd=tempfile.gettempdir(), check=True)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"release.py: {otherwise}")


if __name__ == "__main__":
    main()
