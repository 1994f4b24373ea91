"""An agent behind a gate: more samples, then a stronger model, and no guesses."""

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from aic_integrations.langchain import ChatAdaptive, ConfidenceGate, gate_records

# Only the reference model is shipped, so more samples have to do for a stronger model.
quick = ChatAdaptive(model="reference", max_samples=2, seed=0)
strong = ChatAdaptive(model="reference", max_samples=64, threshold=0.95, seed=1)

gate = ConfidenceGate(
    threshold=0.9,
    on_low=("retry", "escalate", "refuse"),
    stronger=strong,
    refusal="I have no answer that I trust.",
)
agent = create_agent(quick, middleware=[gate])

for problem in (
    "Use 3, 19 and 25 to make 41.",
    "Use 7, 12 and 20 to make 15.",
    "Use 2, 7 and 15 to make 10.",
):
    state = agent.invoke({"messages": [HumanMessage(problem)]})
    print(state["messages"][-1].text)
    for record in gate_records(state):
        tokens = record.usage.generated_tokens if record.usage else "?"
        print(f"  {record.action}: {record.reason} ({tokens} tokens generated)")
    print()
