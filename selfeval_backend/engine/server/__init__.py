"""A running vLLM server as an engine, over its OpenAI-compatible HTTP interface."""

from __future__ import annotations

from selfeval_backend.engine.server.connect import connect_server_engine
from selfeval_backend.engine.server.engine import ServerEngine

__all__ = ["ServerEngine", "connect_server_engine"]
