"""From what a command line says to a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.tasks.alpaca_eval import AlpacaEvalTask, PairwiseJudge
from selfeval_backend.evaluation.tasks.file import FileTask
from selfeval_backend.evaluation.tasks.gsm8k import Gsm8kTask
from selfeval_backend.evaluation.tasks.instructions import InstructionsTask
from selfeval_backend.evaluation.tasks.reference import ReferenceTask
from selfeval_backend.evaluation.tasks.shifted import ShiftedTask
from selfeval_backend.samples.tasks import Task

__all__ = ["named_task"]

_DEFAULT_N = 200
_GENERATED: Mapping[str, type[ReferenceTask] | type[ShiftedTask] | type[InstructionsTask]] = {
    "reference": ReferenceTask,
    "shifted": ShiftedTask,
    "instructions": InstructionsTask,
}
_NAMES = (*_GENERATED, "gsm8k", "alpaca_eval")
_SCORING = ("scorer", "scorer_timeout", "scorer_workers")


def named_task(
    name: str,
    *,
    n: int | None,
    seed: int,
    file: Path | None = None,
    scorer: str | None = None,
    scorer_timeout: float | None = None,
    scorer_workers: int | None = None,
    judge: PairwiseJudge | None = None,
) -> Task:
    """Return the task of a name.

    Args:
        name: "reference", "shifted", "instructions", "gsm8k", "alpaca_eval", or a path to a file
            of prompts.
        n: Most prompts; None: 200 generated ones, or all of a file.
        seed: Of generated problems.
        file: Where the problems of "gsm8k" or "alpaca_eval" are; None: "gsm8k" is downloaded.
        scorer: Of a path; None: "exact".
        scorer_timeout: Of a path: seconds for a response; None: what its kind of scorer has.
        scorer_workers: Of a path: most processes; None: one a core, eight at most.
        judge: Of "alpaca_eval".

    Raises:
        ConfigurationError: There is no such task, or an argument does not go with it.
        DatasetError: The problems cannot be had.
    """
    if n is not None and n < 1:
        raise ConfigurationError("n", n, "a whole number of at least 1")
    if judge is not None and name != "alpaca_eval":
        raise ConfigurationError("judge_url", name, "a judge with --task alpaca_eval alone")
    if name in _NAMES:
        scoring = (scorer, scorer_timeout, scorer_workers)
        _refuse(dict(zip(_SCORING, scoring, strict=True)), f"the task {name!r} has its own")
    if name in _GENERATED:
        _refuse({"file": file}, f"the task {name!r} generates its own")
        return _GENERATED[name](_DEFAULT_N if n is None else n, seed=seed)
    if name == "gsm8k":
        return Gsm8kTask(file, n=n)
    if name == "alpaca_eval":
        return _alpaca_eval(file, judge, n)
    path = Path(name)
    if not path.is_file():
        known = f"one of {', '.join(_NAMES)}, or a file of prompts"
        raise ConfigurationError("task", name, known)
    return FileTask(
        path,
        scorer="exact" if scorer is None else scorer,
        n=n,
        scorer_timeout=scorer_timeout,
        scorer_workers=scorer_workers,
    )


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse the first argument that was given all the same."""
    for field, value in given.items():
        if value is not None:
            shown = str(value) if isinstance(value, Path) else value
            raise ConfigurationError(field, shown, f"none: {why}")


def _alpaca_eval(file: Path | None, judge: PairwiseJudge | None, n: int | None) -> AlpacaEvalTask:
    if file is None:
        raise ConfigurationError("file", None, "AlpacaEval's outputs to be beaten, as JSON")
    if judge is None:
        server = "an OpenAI-compatible server, http://host:8000/v1"
        raise ConfigurationError("judge_url", None, server)
    return AlpacaEvalTask(file, judge=judge, n=n)
