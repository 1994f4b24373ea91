"""A LangChain chain whose model draws more samples only where they help."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from aic_integrations.langchain import ChatAdaptive

llm = ChatAdaptive(model="reference", max_samples=16, seed=0)
prompt = ChatPromptTemplate.from_messages([("user", "Use {numbers} to make {target}.")])

chain = prompt | llm | StrOutputParser()
puzzles = [
    {"numbers": "3, 19 and 25", "target": "41"},
    {"numbers": "7, 12 and 20", "target": "15"},
    {"numbers": "2, 7 and 15", "target": "10"},
]
for answer in chain.batch(puzzles):
    print(answer, end="\n\n")

# The whole message has the confidence and the cost.
for message in (prompt | llm).batch(puzzles):
    facts = message.response_metadata["best_of_n"]
    print(
        f"confidence {facts['confidence']:.2f}, {facts['num_samples']} samples, "
        f"{facts['tokens']['total']} tokens, stopped: {facts['stop_reason']}"
    )
