"""The page of results, rebuilt from recordings alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.figures.page import merged, write_results
from benchmarks.figures.runs import (
    BEAMS,
    CHECKPOINTS,
    Sizes,
    load_beams,
    load_capability,
    make_missing,
    record_capability,
)
from selfeval_backend.engine.scripted import ScriptedChat, ScriptedResponse, StreamCall
from selfeval_backend.errors import DatasetError
from selfeval_backend.samples.store import load_recording, save_recording
from tests.conftest import ModelFactory
from tests.unit.evaluation.test_tuning import knowing
from tests.unit.samples.puzzler import Puzzler

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_missing` would have made."""
    return made_runs(tmp_path_factory.mktemp("runs"))


def made_runs(folder: Path) -> Path:
    made = knowing(40, annealed=True, noise=0.1)
    save_recording(folder / "reference", made)
    shifted = [
        replace(prompt, prompt_id=f"{kind}-0-{place}")
        for place, prompt in enumerate(made.prompts[:12])
        for kind in [("wording", "numbers", "longer")[place % 3]]
    ]
    save_recording(folder / "shifted", replace(made, prompts=tuple(shifted)))
    weaker = knowing(12, annealed=True, noise=1.0)
    save_recording(folder / "capability" / "200000", weaker)
    result = {
        "reward": 1.0,
        "num_samples": 4,
        "generated_tokens": 40,
        "self_evaluation_tokens": 9,
    }
    beam = {
        "settings": {"width": 2, "branch": 2, "step": 4, "max_rounds": 8, "temperature": 1.0},
        "results": [result, {**result, "reward": 0.0}] * 5,
    }
    (folder / "beam.json").write_text(json.dumps([beam]))
    return folder


def test_every_table_and_plot(runs: Path, tmp_path: Path) -> None:
    written = write_results(runs, tmp_path, seed=0)

    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    for title in (
        "Against the paper's marks",
        "All methods",
        "At every token budget",
        "Adaptive sampling",
        "Pruning",
        "When to evaluate",
        "Capability of the generator",
        "Another distribution",
        "Search",
        "Not measured",
    ):
        assert f"## {title}" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 0.20 M", "| the model that"))]
    assert len(rows) == 2
    pairs = [float(line.split("|")[6].split()[0]) for line in rows]
    assert pairs[0] < pairs[1], "the weaker self-evaluation's row says so"
    assert "The first 12 problems" in text
    assert "beam of 2, 2 continuations of 4 tokens | 0.500" in text
    assert "nan" not in text
    for line in text.splitlines():
        if "](results/" in line:
            assert (tmp_path / line.partition("](")[2].rstrip(")")).is_file()
    assert {path.suffix for path in written} == {".md", ".png", ".svg"}
    assert all(path.stat().st_size < 200_000 for path in written)

    again = tmp_path / "again"
    again.mkdir()
    write_results(runs, again, seed=0)
    for path in written:
        assert (again / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()


async def test_what_is_missing_is_made_once(
    make_model: ModelFactory, chat: ScriptedChat, tmp_path: Path
) -> None:
    puzzler = Puzzler(unsure_at=CHECKPOINTS)

    def script(call: StreamCall) -> ScriptedResponse:
        try:
            return puzzler(call)
        except KeyError:  # a problem of the other distribution, or a prefix of a search
            return chat.response("no idea", 0.2)

    told: list[str] = []

    async def make() -> None:
        await make_missing(
            make_model(script, name="reference"),
            tmp_path,
            Sizes(reference=2, shifted=3, beam=1),
            seed=3,
            signals=None,
            progress=lambda name, *_: told.append(name),
        )

    await make()
    assert len(load_recording(tmp_path / "reference").prompts) == 2
    assert len(load_recording(tmp_path / "shifted").prompts) == 3
    assert tuple(run.settings for run in load_beams(tmp_path / "beam.json")) == BEAMS
    assert told[:2] == ["sampling reference", "sampling shifted"]

    num_told = len(told)
    await make()
    assert len(told) == num_told

    path = tmp_path / "beam.json"
    runs = json.loads(path.read_text())
    path.write_text(json.dumps([runs[0] | {"made_of": "another model"}, *runs[1:]]))
    await make()
    assert {name for name in told[num_told:] if name.startswith("beam")} == {"beam 2x2/24"}
    assert {run.settings: run.made_of for run in load_beams(path)} == dict.fromkeys(
        BEAMS, runs[0]["made_of"]
    )


async def test_another_model_is_recorded_under_its_number_of_parameters(
    make_model: ModelFactory, tmp_path: Path
) -> None:
    model = make_model(Puzzler(unsure_at=CHECKPOINTS), name="reference")
    told: list[str] = []

    async def make() -> None:
        await record_capability(
            model,
            tmp_path,
            Sizes(capability=2),
            seed=3,
            progress=lambda name, *_: told.append(name),
        )

    await make()
    found = load_capability(tmp_path / "capability")
    assert {size: len(recording.prompts) for size, recording in found.items()} == {1_541_760: 2}

    num_told = len(told)
    await make()
    assert len(told) == num_told


def test_a_folder_that_is_not_named_for_a_size(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with pytest.raises(DatasetError, match="not named for a number of parameters"):
        load_capability(tmp_path)


def test_searches_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "beam.json"
    for body in ("", "[1]", '[{"settings": {"width": 0}, "results": []}]'):
        path.write_text(body)
        with pytest.raises(DatasetError, match=r"no searches that can be read|no JSON"):
            load_beams(path)
    assert len(set(BEAMS)) == len(BEAMS)


def test_neighbours_that_say_the_same_share_a_row() -> None:
    rows = [("0.5", "1.0"), ("0.6", "1.8"), ("0.7", "1.8"), ("0.8", "1.8"), ("0.9", "1.0")]
    assert merged(rows) == [("0.5", "1.0"), ("0.6 to 0.8", "1.8"), ("0.9", "1.0")]
