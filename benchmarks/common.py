"""What the benchmarks share: models and servers to measure, and how figures are reported."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from selfeval_backend.evaluation.metrics import standard_error
from selfeval_backend.model import REFERENCE_FOLDER

if TYPE_CHECKING:
    from tests.vllm_server import VllmServer

__all__ = [
    "CHECKPOINTS",
    "MAX_TOKENS",
    "NUM_SAMPLES",
    "Figure",
    "make_parser",
    "mean_with_error",
    "median_figure",
    "model_folder",
    "num_full_block_tokens",
    "random_prompt",
    "report",
    "serve",
]

NUM_SAMPLES = 16
MAX_TOKENS = 256
CHECKPOINTS = (64, 128)
BLOCK_SIZE = 32
"""Of the KV cache; the servers and engines measured here are started with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number, and the limit that it should keep."""

    name: str
    value: float
    low: float
    """The smallest value of any repetition."""
    high: float
    """The largest value of any repetition."""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def kept(self) -> bool:
        """Whether it is within its limits."""
        too_high = self.at_most is not None and self.value > self.at_most
        return not too_high and (self.at_least is None or self.value >= self.at_least)

    def __str__(self) -> str:
        """Return one line of a table."""
        limit = ""
        if self.at_most is not None:
            limit = f"  at most {self.at_most:.2f}"
        elif self.at_least is not None:
            limit = f"  at least {self.at_least:.2f}"
        missed = "" if self.kept else ": MISSED"
        return (
            f"{self.name:36s} {self.value:10.3f}  [{self.low:.3f}, {self.high:.3f}]{limit}{missed}"
        )


def median_figure(
    name: str,
    values: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Return the median of a number over the repetitions.

    Ratios are formed within each repetition before: a machine's speed drifts over a run.
    """
    return Figure(
        name=name,
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        at_most=at_most,
        at_least=at_least,
    )


def mean_with_error(values: Iterable[float], *, sign: str = "") -> str:
    """Return a mean and its standard error, which a single value has not; `sign` "+": always."""
    values = list(values)
    error = standard_error(values)
    return f"{statistics.fmean(values):{sign}.3f} ± {math.nan if error is None else error:.3f}"


def make_parser(description: str, *, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to save a plot")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    return parser


def report(
    figures: Sequence[Figure], arguments: argparse.Namespace, facts: Mapping[str, object]
) -> int:
    """Print the figures, plot them if that is asked for, and return the exit status.

    Args:
        figures: In the order of the table.
        arguments: Of `make_parser`.
        facts: What else stands in the JSON: how it was measured.
    """
    for figure in figures:
        print(figure)
    if arguments.plot is not None:
        _plot(figures, arguments.plot)
        print(f"plot: {arguments.plot}")
    kept = all(figure.kept for figure in figures)
    if arguments.json:
        found = {
            **{figure.name: round(figure.value, 4) for figure in figures},
            "ranges": {f.name: [round(f.low, 4), round(f.high, 4)] for f in figures},
            "missed": [figure.name for figure in figures if not figure.kept],
            "repetitions": arguments.repetitions,
            **facts,
            "machine": _machine(),
        }
        print(json.dumps(found))
    return 0 if kept else 1


def random_prompt(seed: int) -> tuple[int, ...]:
    """Return 48 tokens that no other seed gives: a block and a half of the KV cache."""
    return tuple(random.Random(seed).choices(range(20, 320), k=48))


def num_full_block_tokens(num_tokens: int) -> int:
    """Return how many tokens of a running sequence lie in full KV blocks.

    Args:
        num_tokens: Of the sequence; the KV of the last one is not computed yet.
    """
    return (num_tokens - 1) // BLOCK_SIZE * BLOCK_SIZE


@contextmanager
def model_folder(*, large: bool) -> Iterator[Path]:
    """Give the reference model, or a Llama of 100 million random parameters, in a folder."""
    if not large:
        yield REFERENCE_FOLDER
        return
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=512,
    )
    with TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        # A server wants a tokenizer; what it has no text for is no text.
        AutoTokenizer.from_pretrained(REFERENCE_FOLDER).save_pretrained(folder)
        yield Path(folder)


@contextmanager
def serve(*arguments: str, large: bool = False) -> Iterator[VllmServer]:
    """Start a vLLM server on loopback, as the tests do, under the name "reference"."""
    # The one place that knows how a server is started is beside the tests that need it too.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.vllm_server import start_vllm_server

    environment = {"OMP_NUM_THREADS": num_threads(large=large), "VLLM_CPU_KVCACHE_SPACE": "4"}
    with (
        model_folder(large=large) as folder,
        start_vllm_server(*arguments, folder=folder, environment=environment) as server,
    ):
        yield server


def num_threads(*, large: bool) -> str:
    """Return the OpenMP threads that suit a model: small matrices are slower with two."""
    return "2" if large else "1"


def _machine() -> dict[str, object]:
    packages = {}
    for name in ("vllm", "torch", "transformers", "httpx"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "none"
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        **packages,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _plot(figures: Sequence[Figure], path: Path) -> None:
    """Draw the figures that have a limit, each with its range and its limit."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [f for f in figures if f.at_most is not None or f.at_least is not None][::-1]
    axes: plt.Axes
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(drawn) + 1.2))
    for place, each in enumerate(drawn):
        error = [[each.value - each.low], [each.high - each.value]]
        color = "tab:blue" if each.kept else "tab:red"
        axes.barh(place, each.value, xerr=error, color=color, height=0.6, capsize=3)
        limit = each.at_most if each.at_most is not None else each.at_least
        axes.plot([limit, limit], [place - 0.4, place + 0.4], color="black", linewidth=2)
    axes.set_yticks(range(len(drawn)), [f.name for f in drawn])
    axes.set_xlabel("median and range of the repetitions; black: the limit; red: missed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", dpi=100)
    plt.close(figure)
