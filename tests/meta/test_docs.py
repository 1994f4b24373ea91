"""Code on the pages runs, commands exist, and the site shows every public name."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main

from selfeval_backend.cli.main import app
from tests.meta.pages import Block, Page, pages
from tests.meta.source import ROOT

PAGES = pages()
BLOCKS = [block for page in PAGES for block in page.blocks]
WITH_PYTHON = [page for page in PAGES if any(b.language == "python" for b in page.blocks)]
LANGUAGES = {"python", "bash", "json", "yaml", "text"}
PUBLIC = ("selfeval_backend", "aic_integrations.langchain", "aic_integrations.llama_index")


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


# Python.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::selfeval_backend.UncalibratedWarning")  # a user sees it too
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_on_a_page_runs_from_top_to_bottom(
    page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__page__", "__file__": str(ROOT / "examples" / "page")}
    for block in page.blocks:
        if block.language == "python" and not block.not_run:
            exec(compile(block.code, str(block), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert "confidence" in capsys.readouterr().out


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_that_is_not_run_is_python(block: Block) -> None:
    compile(block.code, str(block), "exec")


def test_every_example_is_shown() -> None:
    shown = "".join(page.text for page in PAGES)
    missing = [
        p.name for p in (ROOT / "examples").glob("*.py") if f"examples/{p.name}" not in shown
    ]
    assert missing == []


# Commands.

COMMAND = re.compile(r"`(aic [a-z][^`]*)`")
MENTIONED = [
    (page.name, found[1])
    for page in PAGES
    if page.name != "CHANGELOG.md"
    for found in COMMAND.finditer(" ".join(page.text.split()))
]


def commands(block: Block) -> Iterator[list[str]]:
    """Split a block into commands, as a shell would; what stands around them is left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+|&$", "0", line), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def check_aic(words: list[str]) -> None:
    """Parse a command as the command line does, without running it."""
    group = typer.main.get_command(app)
    command = group.commands[words[0]]
    command.make_context(words[0], words[1:])


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words:
        assert "=" in target or re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        import_module(words[1])
        return
    source = (ROOT / words[0]).read_text(encoding="utf-8")
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in source, word


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words.pop(0) == "install"
    for word in words:
        name, _, extras = word.rstrip("]").partition("[")
        if name == project["name"]:
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), word
        elif word.startswith("./"):
            assert (ROOT / word / "pyproject.toml").is_file(), word


def check_vllm(words: list[str]) -> None:
    parser = pytest.importorskip("vllm.utils.argparse_utils", reason="vLLM is not installed")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser

    assert words[0] == "serve"
    known = make_arg_parser(parser.FlexibleArgumentParser())
    known.parse_args(words[2:])


CHECKS = {"aic": check_aic, "make": check_make, "python": check_python, "pip": check_pip}
SHELL = {"for", "done", "git", "vllm", "twine"}
"""Words that begin a line and are not this project's to check; vLLM has a test of its own."""


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_on_a_page_exist(block: Block) -> None:
    for words in commands(block):
        if words[0] not in SHELL:
            CHECKS[words[0]](words[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of vLLM's own dependencies
@pytest.mark.parametrize("block", [b for b in of("bash") if "vllm serve" in b.code], ids=str)
def test_flags_of_vllm_on_a_page_exist(block: Block) -> None:
    for words in commands(block):
        if words[0] == "vllm":
            check_vllm(words[1:])


@pytest.mark.parametrize(("page", "text"), MENTIONED, ids=lambda value: value)
def test_a_command_in_a_sentence_has_the_options_that_it_names(page: str, text: str) -> None:
    words = text.split()[1:]
    command = typer.main.get_command(app).commands[words[0]]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    known |= {name for parameter in command.params for name in parameter.secondary_opts}
    assert {word for word in words if word.startswith("--")} <= known, page


# Files.


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_on_a_page_can_be_read(block: Block) -> None:
    json.loads(block.code)


@pytest.mark.parametrize("block", [b for b in of("yaml") if "rewards:" in b.code], ids=str)
def test_a_recipe_on_a_page_is_one(block: Block, tmp_path: Path) -> None:
    from selfeval_backend.training.recipe import load_recipe

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(block.code, encoding="utf-8")
    assert load_recipe(str(recipe), []).name


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_code_says_what_language_it_is_in(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block} is an indented block, or names no language"


def test_there_is_something_to_run() -> None:
    assert len(WITH_PYTHON) > 5
    assert len(of("bash")) > 10
    assert MENTIONED


# Tables.


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_neighbouring_rows_of_a_table_say_different_things(page: Page) -> None:
    if page.name == "docs/families.md":
        pytest.skip("a row a family: it is looked up, not read")
    lines = page.text.splitlines()
    rows = [cells(line) if line.startswith("|") else [] for line in lines]
    same = [row[0] for above, row in pairwise(rows) if len(row) > 2 and above[1:] == row[1:]]
    assert same == []


# The API reference.


def test_every_public_name_stands_in_the_api_reference() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/reference").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE))
    names = {
        f"{package}.{name}"
        for package in PUBLIC
        for name in import_module(package).__all__
        if name != "__version__"
    }
    assert names <= shown
    assert {name for name in shown if name.rpartition(".")[0] in PUBLIC} <= names


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_and_its_members_are_documented(package: str) -> None:
    griffe = pytest.importorskip("griffe", reason="the extra docs is not installed")
    module = griffe.load(package, search_paths=[str(ROOT)], resolve_aliases=True)
    names = [name for name in import_module(package).__all__ if name != "__version__"]
    public = [it.final_target if it.is_alias else it for it in map(module.__getitem__, names)]
    members = [
        member
        for it in public
        for member in (it.all_members if it.is_class else it.members).values()
        if member.inherited or not member.is_alias
    ]
    silent = {it.canonical_path for it in (*public, *members) if not documented(it)}
    assert silent == set()


def documented(it: Any) -> bool:
    """Whether a reader is told what it is, by itself or among its class's arguments."""
    if it.is_alias:  # inherited: told where it is from
        return documented(it.final_target)
    if it.name.startswith("_") or it.name == "model_config" or it.has_docstring:
        return True
    of_class = it.parent.docstring if it.parent is not None and it.parent.is_class else None
    return of_class is not None and f"\n    {it.name}: " in of_class.value
