"""The guards of operators/model/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, gives, never, replaced, without
from tests.mutation.selections import MODEL, NETWORKS, PROMPTS, TRANSFORMER

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
        gives("[[5] * length for length in lengths]"),
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
        "model-prompt-unclear",
        "prompts that can be read in two ways are not guessed",
        never,
        (PROMPTS, "-k", "two_ways"),
    ),
    Guard(
        "model-prompt-room",
        "a prompt does not take all that a model reads",
        never,
        (PROMPTS, "-k", "no_room"),
    ),
    Guard(
        "model-prompt-pooled",
        "a prompt of the contract is not left out of the pooling, or put into it, against the model",
        never,
        (PROMPTS, "-k", "pooling_leaves_out"),
    ),
    Guard(
        "model-prompt-name",
        "vectors with one prompt are not mixed with those of another",
        without('("document_prompt", prompts.document, named.document)'),
        (PROMPTS, "-k", "identity"),
    ),
    Guard(
        "model-settings-known",
        "a setting of sentence-transformers that is not implemented is not passed over",
        never,
        (NETWORKS, "-k", "not_known"),
    ),
    Guard(
        "model-config-known",
        "a key of config.json that transformers passes over is not passed over here",
        never,
        (NETWORKS, "-k", "key_of_config_json"),
    ),
    Guard(
        "model-own-code",
        "a network whose authors' code is another one is not loaded as transformers' own",
        never,
        (NETWORKS, "-k", "code_of_its_own"),
    ),
    Guard(
        "model-causal",
        "a model that is meant to attend in both directions is no decoder",
        never,
        (NETWORKS, "-k", "other_than_causal"),
    ),
    Guard(
        "model-weights-used",
        "weights that transformers leaves out are noticed",
        never,
        (NETWORKS, "-k", "weights_that_are_not_used"),
    ),
    Guard(
        "model-truncate",
        "vectors are cut to the length that the model says",
        never,
        (NETWORKS, "-k", "cut_to_the_length"),
    ),
    Guard(
        "model-company",
        "a text's vector does not depend on the texts in its batch",
        never,
        (NETWORKS, "-k", "depend_on_the_batch"),
    ),
    Guard(
        "model-words-differ",
        "a model that gives all texts one vector is refused",
        never,
        (NETWORKS, "-k", "gives_all_texts_one"),
    ),
    Guard(
        "model-literal-padding",
        "a padding token that a text spells out has the position that the model gives it",
        gives("np.arange(1, len(ids) + 1)"),
        (NETWORKS, "-k", "spells_out and Roberta"),
    ),
    Guard(
        "model-vocabulary-size",
        "a vocabulary that was cut short is refused",
        never,
        (NETWORKS, "-k", "cut_short"),
    ),
    Guard(
        "model-token-beyond",
        "a token that the network lacks does not end the flow",
        gives("True"),
        (NETWORKS, "-k", "network_lacks"),
    ),
    Guard(
        "model-fast-tokenizer",
        "a tokenizer that cannot cut texts says so",
        never,
        (NETWORKS, "-k", "without_a_fast_version"),
    ),
    Guard(
        "model-halving",
        "texts that do not fit into memory are embedded in smaller batches",
        always,
        MODEL,
    ),
)
