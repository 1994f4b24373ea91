"""LangChain: `ChatAdaptive`, a chat model that answers with adaptive Best-of-N."""

from aic_integrations.langchain.chat_model import ChatAdaptive

__all__ = ["ChatAdaptive"]
