"""Stages are done once, gone on with where they stopped, and done again when stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.hashing import Hasher
from selfeval_backend.training.pipeline import Pipeline, Workplace
from selfeval_backend.training.recipe import Recipe
from tests.unit.training.conftest import MakeRecipe, make_pipeline


@dataclass
class Writes:
    """Writes what it was given and what it reads; counts its runs."""

    name: str
    needs: tuple[str, ...] = ()
    setting: str = "seed"
    fails: bool = False
    runs: int = 0
    found: list[str] = field(default_factory=list)

    def inputs(self, recipe: Recipe, hasher: Hasher) -> dict[str, Any]:
        return {"setting": getattr(recipe, self.setting)}

    def plan(self, recipe: Recipe, upstream: Mapping[str, Path]) -> Sequence[str]:
        return [f"would write {self.name}"]

    def run(self, place: Workplace) -> dict[str, Any]:
        self.runs += 1
        self.found = sorted(path.name for path in place.folder.iterdir())
        (place.folder / "part").write_text("kept")
        if self.fails:
            raise DatasetError("stopped")
        read = [(place.upstream[need] / "out").read_text() for need in self.needs]
        (place.folder / "out").write_text(f"{getattr(place.recipe, self.setting)} {read}")
        return {"runs": self.runs}


def two(recipe: Recipe) -> tuple[Pipeline, Writes, Writes, list[str]]:
    first, second = Writes("first"), Writes("second", needs=("first",), setting="question")
    pipeline, lines = make_pipeline(recipe, first, second)
    return pipeline, first, second, lines


def test_finished_stages_are_skipped(make_recipe: MakeRecipe) -> None:
    pipeline, first, second, lines = two(make_recipe())
    folder = pipeline.run("second")
    assert pipeline.run("second") == folder
    assert (first.runs, second.runs) == (1, 1)
    assert [line for line in lines if "finished before" in line]
    manifest = pipeline.manifest("second")
    assert manifest is not None
    assert manifest.figures == {"runs": 1}
    assert set(manifest.outputs) == {"out", "part"}


def test_a_changed_input_does_its_stage_and_those_after_it_again(make_recipe: MakeRecipe) -> None:
    old = two(make_recipe())[0].run("second")
    pipeline, first, second, _ = two(make_recipe(question="And now?"))
    new = pipeline.run("second")
    assert (first.runs, second.runs) == (0, 1)
    assert new != old and (old / "out").exists()
    pipeline, first, second, _ = two(make_recipe(seed=1))
    assert pipeline.run("second") not in {old, new}
    assert (first.runs, second.runs) == (1, 1)


def test_a_stopped_stage_goes_on_in_its_folder(make_recipe: MakeRecipe) -> None:
    pipeline, first, second, lines = two(make_recipe())
    second.fails = True
    with pytest.raises(DatasetError, match="stopped"):
        pipeline.run("second")
    assert [p.state for p in pipeline.plan("second")] == ["finished", "begun"]
    second.fails = False
    pipeline.run("second")
    assert first.runs == 1
    assert second.found == ["part"]
    assert any(line.startswith("second: goes on") for line in lines)


def test_a_plan_does_nothing(make_recipe: MakeRecipe) -> None:
    pipeline, first, _, _ = two(make_recipe())
    plans = pipeline.plan("second")
    assert [(p.state, p.lines) for p in plans] == [
        ("new", ("would write first",)),
        ("waits", ("would write second",)),
    ]
    assert first.runs == 0 and plans[0].folder is not None and not plans[0].folder.exists()


def test_an_output_that_is_gone_is_named(make_recipe: MakeRecipe) -> None:
    pipeline, *_ = two(make_recipe())
    folder = pipeline.run("first")
    (folder / "out").unlink()
    with pytest.raises(DatasetError, match="out is gone"):
        pipeline.run("second")
    (folder / "stage.json").write_text("{")
    with pytest.raises(DatasetError, match=r"stage\.json: no JSON"):
        pipeline.run("second")


def test_two_runs_in_one_folder_are_refused(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()

    class Nested(Writes):
        def run(self, place: Workplace) -> dict[str, Any]:
            two(recipe)[0].run("first")
            return {}

    pipeline, _ = make_pipeline(recipe, Nested("nested"))
    with pytest.raises(ConfigurationError, match="no other run"):
        pipeline.run("nested")


def test_an_unknown_stage_is_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigurationError, match="first, second"):
        two(make_recipe())[0].run("third")
