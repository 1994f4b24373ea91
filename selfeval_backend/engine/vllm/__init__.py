"""vLLM in this process. Importing this package imports no vLLM; `load_vllm_engine` does."""

from __future__ import annotations

from selfeval_backend.engine.vllm.engine import VllmEngine
from selfeval_backend.engine.vllm.loading import check_vllm_model, load_vllm_engine

__all__ = ["VllmEngine", "check_vllm_model", "load_vllm_engine"]
