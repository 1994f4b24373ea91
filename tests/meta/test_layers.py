"""Imports go down only, and every heavy library lives behind its door."""

from __future__ import annotations

import tomllib

import pytest

from tests.meta.source import IN_THE_REPOSITORY, PACKAGES, ROOT, Module, modules

DOORS = {
    "accelerate": ("training",),
    "datasets": ("samples.prompts",),
    "gguf": ("model_store.dequantize",),
    "huggingface_hub": ("model.folder",),
    "jinja2": ("chat",),
    "langchain": (),
    "langchain_core": (),
    "langgraph": (),
    "httpx_sse": ("engine.server",),
    "llama_index": (),
    "math_verify": ("scorers",),
    "matplotlib": ("evaluation.plots",),
    "numpy": ("evaluation", "training"),
    "packaging": ("doctor",),
    "peft": ("training",),
    "prometheus_client": ("doctor",),
    "pyarrow": ("samples", "training"),
    "pydantic": (
        *(
            "adapter_fields",
            "gate",
            "samples",
            "selfeval",
            "settings",
            "training.prompts",
            "training.recipe",
        ),
        "validation",
    ),
    "ray": ("samples.on_ray",),
    "rich": ("cli",),
    "safetensors": ("engine.transformers", "training"),
    "sklearn": ("training",),
    "tokenizers": ("model_store.dequantize",),
    "torch": ("engine.transformers", "model_store.dequantize", "samples.on_ray", "training"),
    "transformers": ("chat", "engine.transformers", "model_store.dequantize", "training"),
    "typer": ("cli",),
    "vllm": ("engine.vllm",),
    "yaml": ("training.recipe",),
}
"""Which parts of selfeval_backend may import what."""

LATE = {"chat", "model.folder", "model_store.dequantize"}
"""Modules that everything needs: what they import from elsewhere comes when it is needed."""

BACKEND = modules("selfeval_backend")
ADAPTERS = modules("aic_integrations")


def part(module: Module) -> str:
    """The module's name within selfeval_backend."""
    return module.name.partition(".")[2]


def lies_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in parts)


@pytest.mark.parametrize("module", BACKEND, ids=lambda module: module.name)
def test_libraries_live_behind_their_doors(module: Module) -> None:
    for found in module.imports:
        library = found.module.partition(".")[0]
        if library in DOORS and not (found.late and _only_a_type(module, library)):
            assert lies_in(part(module), DOORS[library]), f"{module.name} imports {library}"


def _only_a_type(module: Module, library: str) -> bool:
    """Whether a library is imported for type checkers, which costs nothing."""
    return all(i.late for i in module.imports if i.module.partition(".")[0] == library)


@pytest.mark.parametrize(
    "module", [m for m in BACKEND if part(m) in LATE], ids=lambda module: module.name
)
def test_what_everything_needs_imports_late(module: Module) -> None:
    early = {i.module.partition(".")[0] for i in module.imports if not i.late}
    assert not early & DOORS.keys()


@pytest.mark.parametrize("module", [*BACKEND, *ADAPTERS], ids=lambda module: module.name)
def test_what_is_installed_needs_nothing_of_the_repository(module: Module) -> None:
    tops = {folder.partition("/")[0] for folder in IN_THE_REPOSITORY}
    assert not tops & {found.module.partition(".")[0] for found in module.imports}


def test_the_wheel_holds_what_is_installed_and_the_sources_hold_all() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel, sources = targets["targets"]["wheel"], targets["targets"]["sdist"]
    assert wheel["packages"] == list(PACKAGES)
    for folder in (*PACKAGES, *IN_THE_REPOSITORY):
        assert f"/{folder.partition('/')[0]}" in sources["include"]


@pytest.mark.parametrize("module", ADAPTERS, ids=lambda module: module.name)
def test_adapters_use_public_names_only(module: Module) -> None:
    """Public is what the backend, or a room of it, hands out; a room's own modules are its own."""
    rooms = {m.name: m.public_names or [] for m in BACKEND if part(m).count(".") == 0}
    for found in module.imports:
        if found.module.partition(".")[0] == "selfeval_backend":
            assert found.module in rooms, f"{module.name}: {found.module} is a module of a room"
            assert found.names, f"{module.name}: name what is used of {found.module}"
            assert set(found.names) <= set(rooms[found.module]), f"{module.name}: {found}"


@pytest.mark.parametrize("room", ["chat", "model", "policy"])
def test_a_room_is_entered_by_its_door(room: str) -> None:
    """Others use what its `__init__` hands out, so that what is within may move."""
    name = f"selfeval_backend.{room}"
    around = [found for package in (*PACKAGES, *IN_THE_REPOSITORY) for found in modules(package)]
    inside = {
        (module.name, found.module)
        for module in around
        if module.name != name and not module.name.startswith(f"{name}.")
        for found in module.imports
        if found.module.startswith(f"{name}.")
    }
    assert inside == set()


@pytest.mark.parametrize("module", ADAPTERS, ids=lambda module: module.name)
def test_adapters_know_neither_models_nor_each_other(module: Module) -> None:
    libraries = {found.module.partition(".")[0] for found in module.imports}
    assert not libraries & {"torch", "transformers", "vllm"}
    if ".langchain" in module.name:
        assert "llama_index" not in libraries
        assert not [i for i in module.imports if "integrations.llama_index" in i.module]
    if ".llama_index" in module.name:
        assert not libraries & {"langchain", "langchain_core", "langgraph"}
        assert not [i for i in module.imports if "integrations.langchain" in i.module]


def test_contracts_of_import_linter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
    monkeypatch.chdir(ROOT)

    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)

    assert status == 0, capsys.readouterr().out
