"""From what a command line says to a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.evaluation.tasks.alpaca_eval import AlpacaEvalTask, PairwiseJudge
from selfeval_backend.evaluation.tasks.base import Task
from selfeval_backend.evaluation.tasks.gsm8k import Gsm8kTask
from selfeval_backend.evaluation.tasks.instructions import InstructionsTask
from selfeval_backend.evaluation.tasks.jsonl import JsonlTask
from selfeval_backend.evaluation.tasks.reference import ReferenceTask
from selfeval_backend.evaluation.tasks.shifted import ShiftedTask

__all__ = ["named_task"]

_DEFAULT_N = 200
_GENERATED: Mapping[str, type[ReferenceTask] | type[ShiftedTask] | type[InstructionsTask]] = {
    "reference": ReferenceTask,
    "shifted": ShiftedTask,
    "instructions": InstructionsTask,
}


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
        name: "reference", "shifted", "instructions", "gsm8k", "alpaca_eval", or a path to JSON
            lines.
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
    path = Path(name)
    if judge is not None and name != "alpaca_eval":
        raise ConfigurationError("judge_url", name, "a judge with --task alpaca_eval alone")
    if name in (*_GENERATED, "gsm8k", "alpaca_eval"):
        given = {
            "scorer": scorer,
            "scorer_timeout": scorer_timeout,
            "scorer_workers": scorer_workers,
        }
        for field, value in given.items():
            if value is not None:
                raise ConfigurationError(field, value, f"none: the task {name!r} has its own")
    if name in _GENERATED:
        if file is not None:
            raise ConfigurationError(
                "file", str(file), f"none: the task {name!r} generates its own"
            )
        return _GENERATED[name](_DEFAULT_N if n is None else n, seed=seed)
    if name == "gsm8k":
        return Gsm8kTask(file, n=n)
    if name == "alpaca_eval":
        if file is None or judge is None:
            raise ConfigurationError(
                "file" if file is None else "judge_url",
                None,
                "AlpacaEval's outputs to be beaten, as JSON"
                if file is None
                else "an OpenAI-compatible server, http://host:8000/v1",
            )
        return AlpacaEvalTask(file, judge=judge, n=n)
    if not path.is_file():
        raise ConfigurationError(
            "task",
            name,
            f"one of {', '.join([*_GENERATED, 'gsm8k', 'alpaca_eval'])}, or a file of JSON lines",
        )
    return JsonlTask(
        path,
        scorer="exact" if scorer is None else scorer,
        n=n,
        scorer_timeout=scorer_timeout,
        scorer_workers=scorer_workers,
    )
