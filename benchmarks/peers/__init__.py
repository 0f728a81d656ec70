"""The other ways to keep a collection fresh, each as its own users would write it.

One module each. All read the same topic into a collection of the same schema in a Milvus Lite of
their own, with the same model by sentence-transformers' `encode`, in batches of its default size.
They are timed from their first record, not from when they connect, to the answer to their last
write: Rowvec's own time has its first fetch and its clean end in it, so what is left out favours
them. What each of them does not promise is said in its module; nothing is charged for it.
"""
