"""``aic eval``: quality against cost of every method, on the user's own prompts and model."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfeval_backend.cli.numbers import whole_numbers
from selfeval_backend.cli.options import BaseUrls
from selfeval_backend.cli.running import note, one_line_errors, with_model
from selfeval_backend.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selfeval_backend.evaluation.metrics import MethodRun
    from selfeval_backend.evaluation.recorder import SignalReader
    from selfeval_backend.evaluation.tasks import Task
    from selfeval_backend.evaluation.tasks.judge import Judge
    from selfeval_backend.model import SelfEvaluatingModel

__all__ = ["evaluate"]


def evaluate(
    context: typer.Context,
    *,
    task: Annotated[
        str,
        typer.Option(
            help="reference, shifted, instructions, gsm8k, alpaca_eval, or a file of JSON lines."
        ),
    ] = "reference",
    file: Annotated[
        Path | None,
        typer.Option(
            help="Where the problems of gsm8k or alpaca_eval are: a file, or a folder of datasets.",
            show_default="gsm8k is downloaded",
        ),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="The server of alpaca_eval's judge, as OpenAI's. Its key is AIC_JUDGE_API_KEY.",
            show_default="none",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The name of the judge on that server.", show_default="none")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="How answers of a file of JSON lines are judged: exact, regex:PATTERN, math or "
            "package.module:function.",
            show_default="exact",
        ),
    ] = None,
    scorer_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds for one response, where the scorer may hang: all but exact.",
            show_default="5, of a function 60",
        ),
    ] = None,
    scorer_workers: Annotated[
        int | None,
        typer.Option(help="Most processes that score.", show_default="one a core, eight at most"),
    ] = None,
    max_error_share: Annotated[
        float, typer.Option(help="Of all rewards: more that fail are refused.")
    ] = 0.05,
    model: Annotated[
        str, typer.Option(help='"reference", a folder with a model, or a model name.')
    ] = "reference",
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers.", show_default="the best that is installed"),
    ] = None,
    base_url: BaseUrls = None,
    methods: Annotated[str, typer.Option(help="all, or names with commas between them.")] = "all",
    samples: Annotated[
        int,
        typer.Option(help="Samples of a prompt, of each kind: at one temperature, and annealed."),
    ] = 16,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Generated tokens at which running samples are evaluated: 16,32,64, or none.",
            show_default="the model's, and powers of two from 8 to 256",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Temperature of samples that are not annealed.")
    ] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one sample.", show_default="what fits")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", help="Most prompts.", show_default="200 generated, or the whole file"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of problems, samples and intervals.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where samples are kept. A run that was killed goes on there.",
            show_default="runs/eval/TASK-MODEL",
        ),
    ] = None,
    rollouts: Annotated[
        Path | None,
        typer.Option(help="Replay what was kept there, without a model.", show_default="none"),
    ] = None,
    token_signals: Annotated[
        bool,
        typer.Option(
            help="Measure token confidences, for DeepConf and self-certainty. For that, "
            "transformers loads the model again."
        ),
    ] = True,
    live: Annotated[
        bool, typer.Option("--live", help="Also run the methods for real, and compare.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Draw samples once, replay every method on them, and compare quality and cost."""
    with one_line_errors():
        if rollouts is not None and (live or out is not None):
            raise ConfigurationError("rollouts", str(rollouts), "none with --live or --out")
        if not 0.0 <= max_error_share <= 1.0:
            raise ConfigurationError("max_error_share", max_error_share, "from 0 to 1")
        if rollouts is not None:
            _refuse_ignored(context, rollouts)
        folder = rollouts or out or Path("runs/eval") / f"{Path(task).stem}-{Path(model).name}"
        runs: Mapping[str, MethodRun] = {}
        if rollouts is None:
            from selfeval_backend.evaluation.catalogue import check_names
            from selfeval_backend.evaluation.tasks import named_task
            from selfeval_backend.files import locked

            check_names(methods, num_samples=samples)
            judge = _judge(judge_url, judge_model)
            job = _Sampling(
                task=named_task(
                    task,
                    n=n,
                    seed=seed,
                    file=file,
                    scorer=scorer,
                    scorer_timeout=scorer_timeout,
                    scorer_workers=scorer_workers,
                    judge=judge,
                ),
                max_error_share=max_error_share,
                folder=folder,
                checkpoints=whole_numbers("checkpoints", checkpoints),
                plan={
                    "num_samples": samples,
                    "temperature": temperature,
                    "max_tokens": max_tokens,
                    "seed": seed,
                },
                token_signals=token_signals,
                live=methods if live else None,
            )
            with locked(folder):
                runs = with_model(model, engine, job.run, base_url=base_url)
        show_comparison(
            folder,
            runs,
            methods=methods,
            seed=seed,
            as_json=as_json,
            max_error_share=max_error_share,
        )


_OF_SAMPLES = (
    "task", "file", "judge_url", "judge_model", "scorer", "scorer_timeout", "scorer_workers",
    "model", "engine", "base_url", "samples", "checkpoints", "temperature", "max_tokens", "n",
    "token_signals",
)  # fmt: skip
"""Options that say what is sampled, and how it is scored."""


def _refuse_ignored(context: typer.Context, rollouts: Path) -> None:
    """Refuse options that a replay of what is kept would leave unheard."""
    for name in _OF_SAMPLES:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(
                "rollouts",
                str(rollouts),
                f"none with {option}",
                remedy="It only shows what is kept there. Without --rollouts, and with --out, what "
                "is kept is used where it can be, and the rest is made anew.",
            )


def show_comparison(
    folder: Path,
    runs: Mapping[str, MethodRun],
    *,
    methods: str,
    seed: int,
    as_json: bool,
    max_error_share: float = 0.05,
) -> None:
    """Replay methods on what a folder keeps, and print what they come to.

    Args:
        folder: Of the recording.
        runs: The methods that were run for real.
        methods: "all", or names with commas between them.
        seed: Of the intervals.
        as_json: Whether the table is JSON.
        max_error_share: Of all rewards: more that failed are refused.
    """
    from selfeval_backend.cli.eval_view import print_json, print_table
    from selfeval_backend.cli.progress import live_progress
    from selfeval_backend.evaluation.changes import changes_since
    from selfeval_backend.evaluation.evaluating import evaluate_recording
    from selfeval_backend.evaluation.recordings import load_recording

    recording = load_recording(folder, max_error_share=max_error_share)
    for line in changes_since(recording, folder):
        warnings.warn(line, stacklevel=1)
    with live_progress() as progress:
        result = evaluate_recording(recording, methods=methods, seed=seed, progress=progress)
    if as_json:
        print_json(result, runs)
    else:
        print_table(result, runs, folder=folder)


def _judge(url: str | None, model: str | None) -> Judge | None:
    if url is None:
        return None
    if model is None:
        raise ConfigurationError("judge_model", None, "the name that the judge is served under")
    from selfeval_backend.evaluation.tasks.judge import Judge

    return Judge(url, model=model, api_key=os.environ.get("AIC_JUDGE_API_KEY"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampling:
    """What is to be done with the model."""

    task: Task
    folder: Path
    checkpoints: tuple[int, ...] | None
    plan: Mapping[str, Any]
    token_signals: bool
    max_error_share: float
    live: str | None
    """Methods to run for real; None: none."""

    async def run(self, model: SelfEvaluatingModel) -> Mapping[str, MethodRun]:
        from selfeval_backend.cli.progress import live_progress
        from selfeval_backend.evaluation.catalogue import catalogue, choose
        from selfeval_backend.evaluation.evaluating import default_checkpoints, run_live
        from selfeval_backend.evaluation.recorder import RecordingPlan, record
        from selfeval_backend.evaluation.recordings import load_recording
        from selfeval_backend.evaluation.tasks import close_task

        checkpoints = self.checkpoints
        if checkpoints is None:
            checkpoints = default_checkpoints(model, max_tokens=self.plan["max_tokens"])
        plan = RecordingPlan(checkpoints=checkpoints, **self.plan)
        signals = self._signals(model) if self.token_signals else None
        try:
            with live_progress() as progress:
                await record(
                    model,
                    self.task,
                    plan,
                    self.folder,
                    signals=signals,
                    max_error_share=self.max_error_share,
                    progress=progress,
                    log=note,
                )
                if self.live is None:
                    return {}
                recording = load_recording(self.folder, max_error_share=self.max_error_share)
                return await run_live(
                    model,
                    self.task,
                    choose(catalogue(recording).methods, self.live, always=()),
                    seed=plan.seed,
                    worst_reward=recording.worst_reward,
                    progress=progress,
                )
        finally:
            close_task(self.task)  # so that what is being scored ends with it

    def _signals(self, model: SelfEvaluatingModel) -> SignalReader | None:
        """Return what reads token signals, where transformers runs the model anyway."""
        if model.engine.capabilities.name != "transformers":
            return None
        from selfeval_backend.checkpoints import locate_checkpoint
        from selfeval_backend.engine.transformers.token_signals import TokenSignals

        return TokenSignals.load(str(locate_checkpoint(model.name)))
