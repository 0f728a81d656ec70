"""Other ways to keep a collection up to date, one module each, written as their users would.

Each peer reads the same topic into a collection of the same schema in its own Milvus Lite, and embeds
with the same model by sentence-transformers' `encode`, in batches of the default size. It is timed from
its first record, not from its connection, to the answer to its last write. Rowvec's time also includes
the first fetch and the clean end, so this favours the peers. Each module says what its peer does not
promise; the comparison does not penalise it for that.
"""
