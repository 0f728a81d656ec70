"""Searches the contract's collections with the contract's model."""

from operators.contract.sections import Contract
from operators.errors import FatalError
from operators.milvus.store import MilvusStore
from operators.model.transformer import TransformerEmbedder
from operators.store.protocol import IN_CHUNKS, Hit


class Searcher:
    """The model and the store, kept open for several searches.

    Raises:
        RowvecError: Milvus or the model cannot be opened.
    """

    def __init__(self, contract: Contract) -> None:
        self._metrics = {table.collection: table.metric for table in contract.tables}
        self._store = MilvusStore(contract.milvus)
        self._embedder = TransformerEmbedder(contract.embedding)

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def search(
        self, text: str, *, collection: str | None = None, where: str = "", limit: int = 5
    ) -> list[Hit]:
        """The entities nearest to `text`, best first, in one collection or in all.

        Raises:
            FatalError: The contract has no such collection, another model filled it, or Milvus
                refuses the filter.
        """
        if collection is not None and collection not in self._metrics:
            raise FatalError(
                subject=f"collection '{collection}'",
                cause="is not in the contract",
                hint=f"it has {', '.join(self._metrics)}",
            )
        names = [collection] if collection is not None else list(self._metrics)
        if len({self._metrics[name] for name in names}) > 1:
            raise FatalError(
                subject="search",
                cause="the collections have different metrics, so their scores cannot be compared",
                hint="name one with --collection",
            )
        for name in names:
            self._check_model(name)
        vector = self._embedder.embed_queries([text])[0]
        hits = [hit for name in names for hit in self._store.search(name, vector, limit, where)]
        nearest_is_lowest = self._metrics[names[0]] == "L2"
        hits.sort(key=lambda hit: hit.score, reverse=not nearest_is_lowest)
        return hits[:limit]

    def _check_model(self, collection: str) -> None:
        """Refuse a collection of another model: by its vectors, scores would mean nothing."""
        filled_by = self._store.model(collection).partition(IN_CHUNKS)[0]
        if filled_by != self._embedder.model:  # guard: search-model
            raise FatalError(
                subject=f"collection '{collection}'",
                cause=f"its vectors were made by {filled_by or 'an unknown model'}, not by "
                f"{self._embedder.model}",
                hint="search with the [embedding] section of the flow that fills it",
            )
