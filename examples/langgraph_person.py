"""A LangGraph graph that asks a person about answers that the model does not trust itself."""

import sys
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from aic_integrations.langchain import (
    ChatAdaptive,
    ConfidenceGateNode,
    GateState,
    gate_records,
)

llm = ChatAdaptive(model="reference", max_samples=1, seed=0)
gate = ConfidenceGateNode(threshold=0.9, on_low=("retry", "interrupt"))


def ask_model(state: GateState) -> dict[str, Any]:
    """Answer; a second time with more samples."""
    return {"messages": [llm.invoke(state["messages"], **gate.settings(state))]}


graph = StateGraph(GateState)
graph.add_node("model", ask_model)
graph.add_node("gate", gate)
graph.add_node("person", gate.ask_person)
graph.add_edge(START, "model")
graph.add_edge("model", "gate")
graph.add_conditional_edges(
    "gate", gate.route, {"accept": END, "retry": "model", "interrupt": "person"}
)
graph.add_edge("person", END)
app = graph.compile(checkpointer=InMemorySaver())


def ask_person(question: dict[str, Any]) -> str:
    """Ask at the keyboard, where there is one."""
    print(f"{question['answer']}\n  Sure? {question['reason']}. approve or reject: ", end="")
    return input() if sys.stdin.isatty() else "reject"


PROBLEMS = (
    "Use 3, 19 and 25 to make 41.",
    "Use 23, 19, 5 and 3 to make 2, then 1 and 8 to make 7.",
)
for thread, problem in enumerate(PROBLEMS):
    config: RunnableConfig = {"configurable": {"thread_id": str(thread)}}
    state = app.invoke({"messages": [HumanMessage(problem)]}, config)
    while "__interrupt__" in state:
        reply = ask_person(state["__interrupt__"][0].value)
        state = app.invoke(Command(resume=reply), config)
    print(state["messages"][-1].text)
    for record in gate_records(state):
        print(f"  {record.action}: {record.reason}")
