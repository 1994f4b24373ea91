"""Tables and intervals, checked against values worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from selfeval_backend.errors import ConfigurationError, DatasetError
from selfeval_backend.evaluation.catalogue import catalogue, check_names, choose, sweep
from selfeval_backend.evaluation.methods import Method
from selfeval_backend.evaluation.table import ResultTable, replay_table
from selfeval_backend.samples.records import Recording
from selfeval_backend.settings import Settings
from tests.unit.evaluation.test_tuning import knowing
from tests.unit.samples.recorded import info


def table(reward: list[list[float]], tokens: list[list[float]] | None = None) -> ResultTable:
    rewards = np.array(reward)
    zeros = np.zeros_like(rewards)
    return ResultTable(
        methods=tuple(Method(name=n, settings=Settings()) for n in ("one", "full", "mine")),
        reward=rewards,
        num_samples=zeros + 1,
        generated_tokens=zeros + 10 if tokens is None else np.array(tokens),
        self_evaluation_tokens=zeros,
        response_characters=zeros,
    )


def test_summaries_by_hand() -> None:
    made = table([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 0]], [[10, 100, 40]] * 4)

    one, full, mine = made.summaries(one_sample="one", best_of_n="full", seed=0)

    assert mine.quality.value == 0.5
    assert mine.standard_error == pytest.approx(sqrt(1 / 3) / 2)
    assert mine.improvement_kept is not None
    assert mine.improvement_kept.value == 0.5
    assert 0.0 <= mine.improvement_kept.low < 0.5 < mine.improvement_kept.high <= 1.0
    assert mine.tokens_saved.value == pytest.approx(0.6)
    assert (one.improvement_kept.value, full.improvement_kept.value) == (0.0, 1.0)  # type: ignore[union-attr]
    assert (mine.tokens, mine.mean_samples) == (40.0, 1.0)


def test_improvement_that_is_not_shown_is_not_shared_out() -> None:
    made = table([[0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])

    for summary in made.summaries(one_sample="one", best_of_n="full", seed=0):
        assert summary.improvement_kept is None


def test_differences_are_paired() -> None:
    # Always better by a tenth, on problems of any difficulty: paired, there is no doubt.
    hard = np.linspace(0, 1, 30)
    made = table(np.stack([hard, hard, hard + 0.1], axis=1).tolist())

    found = made.difference("mine", "one", seed=0)

    assert found.quality.value == pytest.approx(0.1)
    assert found.quality.low == pytest.approx(0.1)
    assert found.quality.high == pytest.approx(0.1)
    with pytest.raises(ConfigurationError, match="method: got 'theirs'"):
        made.difference("theirs", "one", seed=0)


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        made = table(rng.normal(0.3, 1.0, size=(60, 3)).tolist())
        interval = made.mean_of(made.reward[:, 0], seed=0, num_resamples=300)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_rows_are_the_table_of_some_prompts() -> None:
    made = table([[0, 1, 1], [0, 1, 0], [1, 1, 1]])
    assert made.rows([2, 0]).reward.tolist() == [[1, 1, 1], [0, 1, 1]]


def test_names_come_once_and_prompts_at_all() -> None:
    twice = [Method(name="x", settings=Settings())] * 2
    with pytest.raises(ConfigurationError, match="names that come once"):
        replay_table(knowing(2), twice)
    with pytest.raises(DatasetError, match="no prompts to evaluate on"):
        replay_table(Recording(info=info(), prompts=()), twice[:1])


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    recorded = knowing(12, annealed=True)
    methods = catalogue(recorded).methods

    alone = replay_table(recorded, methods, num_processes=1)
    told: list[tuple[int, int]] = []
    together = _forced(recorded, methods, told)

    assert np.array_equal(alone.reward, together.reward)
    assert np.array_equal(alone.tokens, together.tokens)
    assert told[-1] == (12, 12)


def _forced(
    recorded: Recording, methods: tuple[Method, ...], told: list[tuple[int, int]]
) -> ResultTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfeval_backend.evaluation.table._RUNS_OF_A_PROCESS", 1)
        return replay_table(
            recorded, methods, num_processes=2, progress=lambda *progress: told.append(progress)
        )


def test_the_catalogue_and_its_sweep() -> None:
    recorded = knowing(6, annealed=True)
    found = catalogue(recorded)
    names = [method.name for method in found.methods]

    assert names[:4] == ["one sample", "greedy", "best-of-6", "adaptive"]
    assert {"majority vote", "oracle", "DeepConf", "adaptive weighted vote"} <= set(names)
    assert not found.left_out
    check_names(",".join(names), num_samples=6)
    assert [m.name for m in choose(found.methods, "oracle, greedy", always=("one sample",))] == [
        "one sample",
        "greedy",
        "oracle",
    ]
    swept = sweep(recorded)
    assert len({method.name for method in swept}) == len(swept)
    assert {"adaptive", "majority vote", "adaptive-consistency"} <= {m.family for m in swept}
    for names_ in ("nothing", "oracle,nothing"):
        with pytest.raises(ConfigurationError, match="methods: got 'nothing'"):
            choose(found.methods, names_, always=())
        with pytest.raises(ConfigurationError, match="methods: got 'nothing'"):
            check_names(names_, num_samples=6)


def test_the_oracle_bounds_every_choice_among_the_same_samples() -> None:
    recorded = knowing(20, noise=0.3)
    made = replay_table(recorded, catalogue(recorded).methods)
    oracle = made.reward[:, made.column("oracle")]
    for name in ("best-of-6", "majority vote", "mean log-probability", "weighted vote"):
        assert (made.reward[:, made.column(name)] <= oracle).all()
