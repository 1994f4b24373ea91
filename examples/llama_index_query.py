"""A LlamaIndex query engine whose answers keep their confidence, and are gated by it.

The reference model can do nothing but such puzzles: it answers the document that is found, and
cannot answer questions about documents. Another model gets LlamaIndex's own prompts.
"""

import zlib
from pathlib import Path

from llama_index.core import Settings, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.prompts import PromptTemplate

from aic_integrations.llama_index import AdaptiveLLM, ConfidenceGateQueryEngine


class HashedTrigrams(BaseEmbedding):
    """Counts of three letters in a row: enough to find a puzzle by its name, with no download."""

    def _get_text_embedding(self, text: str) -> list[float]:
        counts = [0.0] * 256
        for place in range(len(text) - 2):
            counts[zlib.crc32(text[place : place + 3].lower().encode()) % 256] += 1
        return counts

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


llm = AdaptiveLLM(model="reference", max_samples=4, seed=0)
Settings.llm = llm
Settings.embed_model = HashedTrigrams()
Settings.tokenizer = llm.tokenize

documents = SimpleDirectoryReader(Path(__file__).parent / "puzzles").load_data()
for document in documents:
    document.excluded_embed_metadata_keys = []  # a puzzle is found by the name of its file,
    document.excluded_llm_metadata_keys = list(document.metadata)  # which the model is not shown
index = VectorStoreIndex.from_documents(documents)
engine = index.as_query_engine(
    similarity_top_k=1,
    response_mode="simple_summarize",
    text_qa_template=PromptTemplate("{context_str}"),
)
gated = ConfidenceGateQueryEngine(
    engine, threshold=0.8, on_low=("retry", "refuse"), retrieve_more=1
)

for question in ("The puzzle for a birthday?", "The puzzle for a rainy day?"):
    response = gated.query(question)
    gate = response.metadata["confidence_gate"]
    print(question, str(response), sep="\n")
    print("from", ", ".join(node.metadata["file_name"] for node in response.source_nodes))
    print(
        f"confidence {gate['confidence']:.2f}: {gate['action']} after {len(gate['attempts'])} "
        f"attempt(s), {gate['usage']['output_tokens']} tokens generated\n"
    )
