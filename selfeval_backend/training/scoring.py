"""What a model says of the prefixes of its own samples, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from selfeval_backend.samples.records import PromptRecord, SampleRecord
from selfeval_backend.training.branches import (
    BranchBatch,
    LabelledCut,
    Row,
    collate,
    collate_plain,
    move,
    run,
    takes_branches,
)

__all__ = ["score_prefixes"]


@torch.inference_mode()
def score_prefixes(
    prompts: Sequence[PromptRecord],
    model: Any,
    *,
    cuts: Callable[[SampleRecord], Sequence[int]],
    question_ids: tuple[int, ...],
    label_ids: tuple[int, int],
    pad_id: int,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[PromptRecord]:
    """Add what the model says of prefixes of its samples.

    Args:
        prompts: With samples of the same model.
        model: A transformers causal language model, in evaluation mode.
        cuts: Gives the prefix lengths to ask at; the whole response is always asked, empty or not.
        question_ids: The question, tokenised.
        label_ids: Tokens of (win or tie, loss).
        pad_id: For padding.
        batch_size: Responses in one forward pass.
        progress: Told of how many responses are done, and of how many.
    """
    flat = [
        (i, k, sample, sorted({n for n in cuts(sample) if n} | {len(sample.token_ids)}))
        for i, prompt in enumerate(prompts)
        for k, sample in enumerate(prompt.samples)
    ]
    # Rows of one batch are padded to the longest.
    flat.sort(
        key=lambda item: (
            len(prompts[item[0]].prompt_ids)
            + len(item[2].token_ids)
            + len(item[3]) * len(question_ids)
        )
    )
    longest = max(len(p.prompt_ids) + len(s.token_ids) for p in prompts for s in p.samples)
    branched = takes_branches(model, max_tokens=longest + len(question_ids))
    scored: dict[tuple[int, int], SampleRecord] = {}
    for start in range(0, len(flat), batch_size):
        chunk = flat[start : start + batch_size]
        rows = [
            Row(
                prompt_ids=prompts[i].prompt_ids,
                response_ids=sample.token_ids,
                cuts=tuple(LabelledCut(num_tokens=n, prob_win_or_tie=0.0) for n in places),
            )
            for i, _, sample, places in chunk
        ]
        make = collate if branched else collate_plain
        answers = _label_logprobs(model, make(rows, question_ids, pad_id=pad_id), label_ids)
        for i, k, sample, places in chunk:
            said = {n: next(answers) for n in places}
            scored[i, k] = replace(sample, label_logprobs=said)
        progress(min(start + batch_size, len(flat)), len(flat))
    return [
        replace(p, samples=tuple(scored[i, k] for k in range(len(p.samples))))
        for i, p in enumerate(prompts)
    ]


def _label_logprobs(
    model: Any, batch: BranchBatch, label_ids: tuple[int, int]
) -> Iterator[tuple[float, float]]:
    """Yield (win or tie, loss) for every cut of every row, in order."""
    batch = move(batch, model.device)
    given = ~batch.targets.isnan()
    positions = torch.unique(batch.label_positions)
    logits = run(model, batch, positions)  # [B, P, V]
    rows, _ = given.nonzero(as_tuple=True)
    places = torch.searchsorted(positions, batch.label_positions[given])
    logprobs = logits[rows, places].float().log_softmax(-1)[:, list(label_ids)]  # [N, 2]
    return ((win, loss) for win, loss in logprobs.tolist())
