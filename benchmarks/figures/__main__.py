"""Make every table and plot of docs/results.md anew: ``python -m benchmarks.figures``.

Samples are kept under ``--runs``; what is missing there is drawn first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures.page import write_results
from benchmarks.figures.runs import Sizes, make_missing, record_capability
from selfeval_backend.cli.console import show
from selfeval_backend.cli.progress import live_progress
from selfeval_backend.cli.running import note, one_line_errors, with_model
from selfeval_backend.errors import ConfigurationError
from selfeval_backend.files import check_folder, locked
from selfeval_backend.model import SelfEvaluatingModel, locate_model_files

__all__ = ["app", "figures"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def figures(
    *,
    runs: Annotated[
        Path, typer.Option(help="Where samples are kept; what is missing there is made.")
    ] = Path("runs/results"),
    out: Annotated[Path, typer.Option(help="Gets results.md, and plots under results/.")] = Path(
        "docs"
    ),
    model: Annotated[str, typer.Option(help="The model that solves the reference problems.")] = (
        "reference"
    ),
    capability: Annotated[
        list[Path] | None,
        typer.Option(help="A model of other capability, to stand beside it; may be repeated."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Reference problems.")] = 750,
    n_shifted: Annotated[int, typer.Option(help="Problems of the other distribution.")] = 150,
    n_beam: Annotated[int, typer.Option(help="Reference problems for search.")] = 100,
    n_capability: Annotated[
        int, typer.Option(help="Reference problems for each model of other capability.")
    ] = 300,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    sample: Annotated[
        bool, typer.Option(help="--no-sample: rebuild from what is kept, without a model.")
    ] = True,
    write: Annotated[bool, typer.Option(help="--no-write: only make what is missing.")] = True,
) -> None:
    """Make the samples that are missing, and rebuild every table and plot of docs/results.md."""
    with one_line_errors():
        if capability and not sample:
            raise ConfigurationError(
                "capability",
                [str(path) for path in capability],
                "none with --no-sample",
                remedy="Its samples are drawn: leave --no-sample away.",
            )
        if write:
            check_folder(out)
        if sample:
            sizes = Sizes(
                reference=n, shifted=n_shifted, beam=n_beam, capability=min(n, n_capability)
            )
            with locked(runs):
                for other in capability or ():
                    with_model(
                        str(other), "transformers", lambda it: _sample_other(it, runs, sizes, seed)
                    )
                with_model(model, "transformers", lambda it: _sample(it, runs, sizes, seed))
        if write:
            for path in write_results(runs, out, seed=seed):
                show(path)


async def _sample(model: SelfEvaluatingModel, runs: Path, sizes: Sizes, seed: int) -> None:
    from selfeval_backend.engine.transformers.token_signals import TokenSignals  # torch: seconds

    signals = TokenSignals.load(str(locate_model_files(model.name)))
    with live_progress() as progress:
        await make_missing(
            model, runs, sizes, seed=seed, signals=signals, progress=progress, log=note
        )


async def _sample_other(model: SelfEvaluatingModel, runs: Path, sizes: Sizes, seed: int) -> None:
    with live_progress() as progress:
        await record_capability(model, runs, sizes, seed=seed, progress=progress, log=note)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.figures")
