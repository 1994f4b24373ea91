"""LangChain: a chat model and a completion model that answer with adaptive Best-of-N."""

from aic_integrations.langchain.chat_model import ChatAdaptive
from aic_integrations.langchain.llm import AdaptiveLLM

__all__ = ["AdaptiveLLM", "ChatAdaptive"]
