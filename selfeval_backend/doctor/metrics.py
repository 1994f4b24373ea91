"""What a vLLM server counts: its Prometheus metrics, read once."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from selfeval_backend.errors import EngineResponseError

__all__ = ["Metrics"]


class Metrics:
    """The metrics of one moment.

    Args:
        text: What ``/metrics`` answered.

    Raises:
        EngineResponseError: It cannot be read.
    """

    def __init__(self, text: str) -> None:
        try:
            families = list(text_string_to_metric_families(text))
        except (ValueError, KeyError, IndexError) as error:
            raise EngineResponseError(f"/metrics cannot be read: {error}") from error
        self._samples: list[Sample] = [sample for family in families for sample in family.samples]

    @property
    def num_requests(self) -> int | None:
        """Running and waiting requests; None where the server does not say."""
        running = self._total("vllm:num_requests_running")
        waiting = self._total("vllm:num_requests_waiting")
        return None if running is None or waiting is None else int(running + waiting)

    @property
    def num_generated_tokens(self) -> int | None:
        """Since the server's start; None where it does not say."""
        total = self._total("vllm:generation_tokens_total")
        return None if total is None else int(total)

    @property
    def prefix_caching(self) -> bool | None:
        """Whether the prefix cache is on, by the server's configuration; None: it does not say."""
        for sample in self._samples:
            if sample.name == "vllm:cache_config_info":
                said = sample.labels.get("enable_prefix_caching")
                return None if said is None else said == "True"
        return None

    def _total(self, name: str) -> float | None:
        """Return a metric's sum over its labels (a server may have several engines)."""
        values = [sample.value for sample in self._samples if sample.name == name]
        return sum(values) if values else None
