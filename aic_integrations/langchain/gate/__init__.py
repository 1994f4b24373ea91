"""The confidence gate in LangChain: one `run` over messages, in four forms.

`middleware` of an agent, nodes of a `graph`, a `runnable` in a chain, a `chat_model` of its own.
"""
