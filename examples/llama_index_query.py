"""A LlamaIndex query engine over a folder of documents, whose answers keep their confidence.

The reference model answers from the passages that are found, in LlamaIndex's own prompts; the gate
retrieves and draws more where the model is not sure, and says that it does not know where that did
not help. It is a small model, and sure of too much: the third question has no answer in the texts.
"""

import zlib
from pathlib import Path

from llama_index.core import Settings, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding

from aic_integrations.llama_index import AdaptiveLLM, ConfidenceGateQueryEngine


class HashedTrigrams(BaseEmbedding):
    """Counts of three letters in a row: enough to find a text by its names, with no download."""

    def _get_text_embedding(self, text: str) -> list[float]:
        counts = [0.0] * 256
        for place in range(len(text) - 2):
            counts[zlib.crc32(text[place : place + 3].lower().encode()) % 256] += 1
        return counts

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


llm = AdaptiveLLM(model="reference", max_samples=8, max_tokens=96, seed=0)
Settings.llm = llm
Settings.embed_model = HashedTrigrams()
Settings.tokenizer = llm.tokenize

documents = SimpleDirectoryReader(Path(__file__).parent / "villages").load_data()
for document in documents:
    document.excluded_llm_metadata_keys = list(document.metadata)  # dates and sizes of files
index = VectorStoreIndex.from_documents(documents)
gated = ConfidenceGateQueryEngine(
    index.as_query_engine(similarity_top_k=2), threshold=0.85, on_low=("retry", "refuse")
)

for question in (
    "What is Old Kratru known for?",
    "How many people live in Pondcus?",
    "On which river does Old Kratru lie?",
):
    response = gated.query(question)
    gate = response.metadata["confidence_gate"]
    print(question, str(response), sep="\n")
    print("from", ", ".join(node.metadata["file_name"] for node in response.source_nodes))
    print(
        f"confidence {gate['confidence']:.2f}: {gate['action']} after {len(gate['attempts'])} "
        f"attempt(s), {gate['usage']['generated_tokens']} tokens generated\n"
    )
