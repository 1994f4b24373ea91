"""A LangChain stream: what happens to the samples, then the text of the one that wins."""

import asyncio

from langchain_core.prompts import ChatPromptTemplate

from aic_integrations.langchain import ChatAdaptive

# A sample that is this sure of itself after 24 tokens is the answer: its text flows from there.
llm = ChatAdaptive(model="reference", max_samples=8, prune_at=24, accept_above=0.6, seed=0)
chain = ChatPromptTemplate.from_messages([("user", "Use {numbers} to make {target}.")]) | llm


async def main() -> None:
    """Print events as they come."""
    puzzle = {"numbers": "3, 19 and 25", "target": "41"}
    async for event in chain.astream_events(puzzle, version="v2"):
        if event["event"] == "on_custom_event" and event["name"] == "best_of_n":
            print(f"[{event['data']['type']} {event['data']['samples']}]", end=" ", flush=True)
        if event["event"] == "on_chat_model_stream":
            print(event["data"]["chunk"].text, end="", flush=True)
        if event["event"] == "on_chat_model_end":
            facts = event["data"]["output"].response_metadata["best_of_n"]
            print(f"\n\nconfidence {facts['confidence']:.2f}, stopped: {facts['stop_reason']}")


asyncio.run(main())
