"""``aic``: the commands, put together."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from selfeval_backend.cli.ask import ask
from selfeval_backend.cli.console import prepare_streams, show, stdout_failed
from selfeval_backend.cli.demo import demo
from selfeval_backend.cli.doctor import doctor
from selfeval_backend.cli.eval import evaluate
from selfeval_backend.cli.models import models, pull
from selfeval_backend.cli.train import train
from selfeval_backend.cli.tune import tune

__all__ = ["app", "main"]

app = typer.Typer(
    name="aic",
    help="Better answers than one sample, at a fraction of the cost of Best-of-N.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        from selfeval_backend import __version__

        show(f"aic {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command("ask")(ask)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.add_typer(models, name="models")
app.command("pull")(pull)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("tune")(tune)


def main() -> None:
    """Run the command line of this process."""
    prepare_streams()
    try:
        app(prog_name="aic")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(stdout_failed(error))  # in a text of typer's own: --help, for one
