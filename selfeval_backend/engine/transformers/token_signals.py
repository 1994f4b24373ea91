"""What a model says of each token of a finished sample.

One forward pass over prompt and response. Generation has the same numbers at hand for nothing
(vLLM: ``logprobs=20``), so a method that uses them pays for no more tokens.

Axes: B samples, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from selfeval_backend.errors import ModelFilesError

__all__ = ["SampleSignals", "TokenSignals"]

_NUM_LIKELIEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSignals:
    """Of one sample."""

    token_confidences: tuple[float, ...]
    """One a generated token: minus the mean log-probability of the 20 likeliest tokens there.

    Source: token confidence of DeepConf, arXiv 2508.15260, section 2.
    """
    self_certainty: float
    """Mean over tokens of the KL divergence from the uniform to the next-token distribution.

    Source: arXiv 2502.18581, section 4.
    """


class TokenSignals:
    """Reads signals off a model.

    Args:
        model: A transformers causal language model.
        max_batch_tokens: Most tokens of a forward pass, padding counted.
    """

    def __init__(self, model: PreTrainedModel, *, max_batch_tokens: int = 16_384) -> None:
        self._model = model
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(cls, checkpoint: str) -> TokenSignals:
        """Load the model of a model folder.

        Raises:
            ModelFilesError: It cannot be loaded.
        """
        try:
            model = AutoModelForCausalLM.from_pretrained(checkpoint)
        except Exception as error:
            # Broken files make transformers, torch and safetensors raise whatever comes.
            raise ModelFilesError(f"{checkpoint} cannot be loaded: {error}") from error
        model.eval()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        return cls(model)

    @torch.inference_mode()
    def measure(
        self, prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]
    ) -> list[SampleSignals]:
        """Return the signals of each sample, in order.

        Args:
            prompts: One for each response, of at least one token.
            responses: Without their end tokens; what was thought in the place of the end token is
                measured too.
        """
        sequences = list(zip(prompts, responses, strict=True))
        order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
        found: dict[int, SampleSignals] = {}
        batch: list[int] = []
        for i in order:
            longest = sum(map(len, sequences[i]))
            if batch and longest * (len(batch) + 1) > self._max_batch_tokens:
                found.update(zip(batch, self._forward([sequences[j] for j in batch]), strict=True))
                batch = []
            batch.append(i)
        if batch:
            found.update(zip(batch, self._forward([sequences[j] for j in batch]), strict=True))
        return [found[i] for i in range(len(sequences))]

    def _forward(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[SampleSignals]:
        rows = [prompt + response for prompt, response in sequences]
        longest = max(map(len, rows))
        # Padding on the right is never attended to: the mask is causal.
        ids = torch.tensor([row + (0,) * (longest - len(row)) for row in rows])  # [B, L]
        logits = self._model(input_ids=ids.to(self._model.device), use_cache=False).logits
        logprobs = logits.float().log_softmax(-1)  # [B, L, V]
        num_likeliest = min(_NUM_LIKELIEST, logprobs.shape[-1])
        confidence = -logprobs.topk(num_likeliest, dim=-1).values.mean(-1)  # [B, L]
        # KL(uniform, p) = -log V - mean log p.
        vocabulary = torch.tensor(float(logprobs.shape[-1]))
        certainty = -logprobs.mean(-1) - vocabulary.log().to(logprobs.device)  # [B, L]
        signals = []
        for i, (prompt, response) in enumerate(sequences):
            # Position p predicts token p + 1: from the first token's to the end token's.
            places = slice(len(prompt) - 1, len(prompt) + len(response))
            signals.append(
                SampleSignals(
                    token_confidences=tuple(confidence[i, places].tolist()),
                    self_certainty=float(certainty[i, places].mean()),
                )
            )
        return signals
