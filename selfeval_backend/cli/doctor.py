"""``aic doctor``: what would be used and why, and whether it works."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

from selfeval_backend.cli.console import FAILED
from selfeval_backend.cli.options import DEFAULT_MODEL, BaseUrls
from selfeval_backend.cli.running import one_line_errors, status

if TYPE_CHECKING:
    from selfeval_backend.doctor import ModelFiles, Section
    from selfeval_backend.model import EngineName

__all__ = ["doctor"]


def doctor(
    *,
    model: Annotated[
        str,
        typer.Option(
            help="A name that `aic models` lists, a folder with a model, or a model of the hub; "
            "with --base-url the name that the server serves."
        ),
    ] = DEFAULT_MODEL,
    engine: Annotated[
        str | None,
        typer.Option(help="vllm or transformers.", show_default="the best that is installed"),
    ] = None,
    base_url: BaseUrls = None,
    model_files: Annotated[
        str | None,
        typer.Option(
            help="Folder or model name with the tokenizer and selfeval.json of a server's model.",
            show_default="the model",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check this machine, a model's files and its servers. Say how to fix what is wrong.

    The exit status is 0 if no check failed (there may be warnings), 1 if one did, 2 if the
    arguments cannot be used.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with one_line_errors():
        base_urls = tuple(base_url or ())
        _refuse_early(model, engine, base_urls, model_files)
        sections = _examine(model, cast("EngineName | None", engine), base_urls, model_files)
        from selfeval_backend.cli.doctor_view import print_json, print_sections

        (print_json if as_json else print_sections)(sections)
        if any(check.status == "failed" for section in sections for check in section.checks):
            raise typer.Exit(FAILED)


def _refuse_early(
    model: str, engine: str | None, base_urls: tuple[str, ...], model_files: str | None
) -> None:
    from selfeval_backend.model import check_where_it_runs

    check_where_it_runs(model, engine=engine, on_server=bool(base_urls), model_files=model_files)
    from selfeval_backend.web import check_key, check_url

    for url in base_urls:
        check_url(url)
    if base_urls:
        check_key(os.environ.get("AIC_API_KEY"))


def _can_talk() -> bool:
    """Return whether the packages for talking to servers are there; the report names them."""
    try:
        import selfeval_backend.doctor.server  # noqa: F401  # only whether it can be
    except ModuleNotFoundError:
        return False
    return True


def _examine(
    model: str, engine: EngineName | None, base_urls: tuple[str, ...], model_files: str | None
) -> tuple[Section, ...]:
    from selfeval_backend.doctor import (
        Section,
        check_architecture,
        check_machine,
        check_model_files,
    )

    with status("looking at this machine"):
        machine = check_machine(engine=engine, on_server=bool(base_urls))
    where = model_files or model
    with status(f"looking at {where}"):
        files = check_model_files(where, with_weights=not base_urls)
        # A server has its own engine, and has loaded the model.
        runs = () if base_urls else (check_architecture(where, engine=engine),)
    return (
        Section(title="This machine", checks=machine),
        Section(title=f"Model {where}", checks=(*files.checks, *runs)),
        *(_examine_server(url, model, files) for url in base_urls),
    )


def _examine_server(url: str, model: str, files: ModelFiles) -> Section:
    from selfeval_backend.doctor import Check, Section

    if not _can_talk():
        reason = "packages are missing that talk to it"
        lost = Check(name="reachable", status="not checked", found=reason, remedy=None)
        return Section(title=f"Server {url}", checks=(lost,))
    from selfeval_backend.doctor.server import check_server
    from selfeval_backend.sync import run_sync

    with status(f"asking {url}"):
        key = os.environ.get("AIC_API_KEY")
        checks = run_sync(check_server(url, model=model, api_key=key, files=files))
    return Section(title=f"Server {url}", checks=checks)
