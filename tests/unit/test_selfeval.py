"""From log-probabilities to prob_win_or_tie, and the file that travels with a model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import ModelFilesError, SelfEvaluationError
from selfeval_backend.selfeval import (
    PAPER_QUESTION,
    CalibrationMap,
    SelfEvalConfig,
    SelfEvaluator,
    raw_prob_win_or_tie,
)

LOGPROBS = st.floats(max_value=0, allow_nan=False, allow_infinity=False)


def test_raw_probability_by_hand() -> None:
    # p(win or tie) = 0.3, p(loss) = 0.1: 0.3 / 0.4
    assert raw_prob_win_or_tie(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert raw_prob_win_or_tie(-math.inf, -1.0) == 0.0
    assert raw_prob_win_or_tie(-1.0, -math.inf) == 1.0
    assert raw_prob_win_or_tie(-2000.0, -1.0) == 0.0


@given(a=LOGPROBS, b=LOGPROBS)
def test_raw_probability_is_one_and_its_mirror_is_the_rest(a: float, b: float) -> None:
    assert 0 <= raw_prob_win_or_tie(a, b) <= 1
    assert raw_prob_win_or_tie(a, b) + raw_prob_win_or_tie(b, a) == pytest.approx(1)


@pytest.mark.parametrize(
    "pair", [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -math.inf)], ids=str
)
def test_what_cannot_be_compared_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(SelfEvaluationError):
        raw_prob_win_or_tie(*pair)


def test_calibration_is_linear_between_its_points_and_flat_beyond() -> None:
    calibrate = CalibrationMap(
        num_tokens=None, raw_logit=(-1.0, 1.0, 3.0), prob_win_or_tie=(0.2, 0.6, 0.9)
    )
    assert [calibrate(x) for x in (-9.0, -1.0, 0.0, 1.0, 2.0, 3.0, 9.0)] == pytest.approx(
        [0.2, 0.2, 0.4, 0.6, 0.75, 0.9, 0.9]
    )


@given(
    points=st.lists(st.tuples(st.integers(-30, 30), st.floats(0, 1)), min_size=1, max_size=8),
    low=st.floats(-40, 40),
    high=st.floats(-40, 40),
)
def test_calibration_never_falls(points: list[tuple[int, float]], low: float, high: float) -> None:
    logits = sorted({logit for logit, _ in points})
    probs = sorted(prob for _, prob in points)[: len(logits)]
    calibrate = CalibrationMap(
        num_tokens=8, raw_logit=tuple(map(float, logits)), prob_win_or_tie=tuple(probs)
    )
    low, high = sorted((low, high))
    assert 0 <= calibrate(low) <= calibrate(high) + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize(
    ("raw_logit", "probs"),
    [((1.0, 1.0), (0.1, 0.2)), ((1.0, 2.0), (0.2, 0.1)), ((1.0,), (0.1, 0.2)), ((), ())],
)
def test_a_calibration_that_is_no_ascending_map_is_refused(
    raw_logit: tuple[float, ...], probs: tuple[float, ...]
) -> None:
    with pytest.raises(ValidationError):
        CalibrationMap(num_tokens=None, raw_logit=raw_logit, prob_win_or_tie=probs)


def flat(prob: float, num_tokens: int | None) -> CalibrationMap:
    return CalibrationMap(num_tokens=num_tokens, raw_logit=(0.0,), prob_win_or_tie=(prob,))


def test_each_position_has_the_nearest_calibration(chat: ScriptedChat) -> None:
    maps = (flat(0.9, None), flat(0.1, 16), flat(0.2, 64))
    evaluator = SelfEvaluator(SelfEvalConfig(calibration=maps), chat)
    pair = (math.log(0.3), math.log(0.1))
    read = {
        (n, final): evaluator.read(pair, num_tokens=n, final=final).prob_win_or_tie
        for n, final in ((16, False), (31, False), (33, False), (500, False), (16, True))
    }
    assert list(read.values()) == [0.1, 0.1, 0.2, 0.2, 0.9]  # 32 is half-way, on a log scale


def test_a_model_without_a_file_is_read_raw_and_says_so(chat: ScriptedChat) -> None:
    evaluator = SelfEvaluator(None, chat)
    evaluation = evaluator.read((math.log(0.3), math.log(0.1)), num_tokens=5, final=True)
    assert not evaluator.calibrated
    assert not evaluation.calibrated
    assert evaluation.prob_win_or_tie == evaluation.raw_prob_win_or_tie == pytest.approx(0.75)
    assert evaluator.question_ids == chat.follow_up_ids(PAPER_QUESTION)
    assert evaluator.label_ids == (ord("N"), ord("Y"))


def test_only_finished_responses_may_be_calibrated(chat: ScriptedChat) -> None:
    evaluator = SelfEvaluator(SelfEvalConfig(calibration=(flat(0.9, None),)), chat)
    assert evaluator.calibrated
    assert not evaluator.read((-1.0, -1.0), num_tokens=16, final=False).calibrated


def test_the_file_keeps_what_was_written(tmp_path: Path) -> None:
    config = SelfEvalConfig(
        question="Better?",
        calibration=(flat(0.5, None), flat(0.25, 16)),
        policy={"threshold": 0.8, "prune_at": [16]},
        provenance={"seed": 1},
    )
    config.save(tmp_path)
    assert SelfEvalConfig.load(tmp_path) == config
    assert json.loads((tmp_path / "selfeval.json").read_text("utf-8"))["question"] == "Better?"


def test_a_folder_without_a_file_has_no_config(tmp_path: Path) -> None:
    assert SelfEvalConfig.load(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "selfeval.json"),
        ('{"version": 2}', "version"),
        ('{"qestion": "x"}', "qestion"),
        ('{"calibration": [{"num_tokens": 0, "raw_logit": [0], "prob_win_or_tie": [1]}]}', "num_t"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "selfeval.json").write_text(text, "utf-8")
    with pytest.raises(ModelFilesError, match=match):
        SelfEvalConfig.load(tmp_path)
