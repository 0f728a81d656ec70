"""The guards of operators/model/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, gives, never, replaced, without
from tests.mutation.selections import MODEL, TRANSFORMER

GUARDS: tuple[Guard, ...] = (
    Guard(
        "chunks-in-windows",
        "a long text without blanks is not counted to its end for each chunk",
        never,
        ("tests/unit/model/test_chunks.py",),
    ),
    Guard(
        "model-finite",
        "a model that makes a NaN stops the flow",
        never,
        MODEL,
    ),
    Guard(
        "model-packing-checked",
        "a model that gives other vectors for packed texts is padded",
        gives("True"),
        (TRANSFORMER, "-k", "packing_would_change"),
    ),
    Guard(
        "model-packing-sample",
        "the texts of the sample differ, so that one that sees another is noticed",
        gives("[(list(ids) * length)[:length] for length in lengths]"),
        (TRANSFORMER, "-k", "packing_would_change"),
    ),
    Guard(
        "model-packing-masks",
        "a model with a mask of another kind is not packed",
        never,
        (TRANSFORMER, "-k", "of_another_kind"),
    ),
    Guard(
        "model-packing-kinds",
        "attention of another kind is not taken for the plain one",
        replaced("wanted - _HARMLESS", by="False"),
        (TRANSFORMER, "-k", "of_another_kind"),
    ),
    Guard(
        "model-library-checked",
        "a model whose vectors oneDNN would change does without it",
        never,
        (TRANSFORMER, "-k", "library_would_change"),
    ),
    Guard(
        "model-int8-name",
        "vectors of int8 are not mixed with those of the model as it is",
        without('("int8", section.dtype == "int8", False)'),
        (TRANSFORMER, "-k", "identity_changes"),
    ),
    Guard(
        "model-int8-cuda",
        "int8 is refused on a GPU, where it would silently be float32",
        without('section.dtype != "int8"'),
        (TRANSFORMER, "-k", "dtype_that_the_device_lacks"),
    ),
    Guard(
        "model-halving",
        "texts that do not fit into memory are embedded in smaller batches",
        always,
        MODEL,
    ),
)
