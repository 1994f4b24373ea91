"""Calibration: what is said becomes what is true, and the order stays."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from selfeval_backend.engine.scripted import ScriptedChat
from selfeval_backend.errors import DatasetError
from selfeval_backend.evaluation.quality import expected_calibration_error, predictions
from selfeval_backend.samples.records import PromptRecord
from selfeval_backend.selfeval import SelfEvalConfig, SelfEvaluator
from selfeval_backend.training.calibrate import fit_calibration
from tests.unit.samples.recorded import recording, sample


def overconfident(seed: int) -> list[PromptRecord]:
    """Two samples a prompt, one right; half of all raw probabilities are near 1 all the same."""
    rng = random.Random(seed)
    prompts = []
    for place in range(1000):
        rewards = [1.0, 0.0]
        rng.shuffle(rewards)
        samples = tuple(
            replace(
                sample(index, [0.5] * 20, reward=reward),
                label_logprobs={n: (rng.gauss(3.0 + reward, 1.0), 0.0) for n in (8, 20)},
            )
            for index, reward in enumerate(rewards)
        )
        prompts.append(replace(recording(samples).prompts[0], key=str(place)))
    return prompts


def test_what_is_said_becomes_true_and_the_order_stays() -> None:
    plain = SelfEvaluator(SelfEvalConfig(), ScriptedChat())
    fitted = fit_calibration(overconfident(0), plain, positions=[8])
    calibrated = SelfEvaluator(SelfEvalConfig(calibration=fitted), ScriptedChat())
    held_out = overconfident(1)
    before = predictions(held_out, plain, lambda s: 20)
    after = predictions(held_out, calibrated, lambda s: 20)
    assert expected_calibration_error(before) > 0.4
    assert expected_calibration_error(after) < 0.06
    ordered = [p.prob_win_or_tie for p in sorted(after, key=lambda p: p.logit)]
    assert ordered == sorted(ordered)


def test_each_position_has_its_own_map_and_too_few_samples_have_none() -> None:
    evaluator = SelfEvaluator(SelfEvalConfig(), ScriptedChat())
    fitted = fit_calibration(overconfident(0), evaluator, positions=[8, 16])
    assert [m.num_tokens for m in fitted] == [None, 8]
    assert all(m.prob_win_or_tie[0] == pytest.approx(0.0, abs=0.5) for m in fitted)


def test_platt_is_a_logistic_curve_and_calibrates_too() -> None:
    plain = SelfEvaluator(SelfEvalConfig(), ScriptedChat())
    fitted = fit_calibration(overconfident(0), plain, positions=[8], method="platt")
    calibrated = SelfEvaluator(SelfEvalConfig(calibration=fitted), ScriptedChat())
    after = predictions(overconfident(1), calibrated, lambda s: 20)
    assert expected_calibration_error(after) < 0.06
    odds = [math.log(p / (1 - p)) for p in fitted[0].prob_win_or_tie]
    slopes = [
        (b - a) / (y - x)
        for (a, b), (x, y) in zip(pairwise(odds), pairwise(fitted[0].raw_logit), strict=True)
    ]
    assert max(slopes) == pytest.approx(min(slopes), rel=0.01)


def test_a_logit_that_means_nothing_gives_the_mean() -> None:
    plain = SelfEvaluator(SelfEvalConfig(), ScriptedChat())
    upside_down = [
        replace(
            prompt,
            samples=tuple(
                replace(
                    s,
                    label_logprobs={n: (-win, loss) for n, (win, loss) in s.label_logprobs.items()},
                )
                for s in prompt.samples
            ),
        )
        for prompt in overconfident(0)
    ]
    (fitted,) = fit_calibration(upside_down, plain, positions=[], method="platt")
    assert fitted(-5.0) == fitted(5.0) == pytest.approx(0.5, abs=0.05)


def test_nothing_to_calibrate_on_is_said() -> None:
    with pytest.raises(DatasetError, match="no held-out response"):
        fit_calibration([], SelfEvaluator(SelfEvalConfig(), ScriptedChat()), positions=[8])
