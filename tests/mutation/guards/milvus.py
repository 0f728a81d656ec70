"""The guards of operators/milvus/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import gives, instead, never, replaced, unwrapped, without
from tests.mutation.selections import ERRORS, FENCED, STORE

GUARDS: tuple[Guard, ...] = (
    Guard(
        "duplicate-ids",
        "an id that comes twice in one request is refused",
        never,
        STORE,
    ),
    Guard(
        "unknown-is-no-letter",
        "an unknown error of Milvus is retried, and not blamed on the data",
        replaced("Verdict.TRANSIENT", by="Verdict.REFUSED"),
        ERRORS,
    ),
    Guard(
        "down-is-no-letter",
        "a refused token is reported as such, and not as a server that is down",
        without('"UNAUTHENTICATED"'),
        ERRORS,
    ),
    Guard(
        "creation-refused",
        "a server that refuses to create a collection is not taken for one that is down",
        never,
        ERRORS,
    ),
    Guard(
        "number-of-added-fields",
        "a field that is one too many for a collection is refused",
        never,
        ("tests/conformance/test_added_fields.py", "-k", "one_too_many"),
    ),
    Guard(
        "no-proxy-on-this-machine",
        "no proxy is asked for Milvus Lite in this process, or for a server on this machine",
        never,
        ("tests/conformance/test_store.py", "-k", "proxy_is_not_asked"),
    ),
    Guard(
        "address-is-no-path",
        "an address without its scheme is not taken for a directory of Milvus Lite",
        never,
        ("tests/conformance/test_store.py", "-k", "addresses"),
    ),
    Guard(
        "id-checked",
        "an id that is not encoded reaches no filter",
        never,
        STORE,
    ),
    Guard(
        "version-checked",
        "what is no version reaches no filter",
        never,
        STORE,
    ),
    Guard(
        "vector-finite",
        "a vector with a NaN is refused",
        never,
        STORE,
    ),
    Guard(
        "vector-dimensions",
        "a vector of another length is refused",
        never,
        STORE,
    ),
    Guard(
        "varchar-bytes",
        "a text of more bytes than its field holds is refused",
        never,
        STORE,
    ),
    Guard(
        "json-number-exact",
        "a whole number in JSON that readers would get rounded is refused",
        never,
        STORE,
    ),
    Guard(
        "rows-do-not-expire",
        "a collection whose rows Milvus drops after a time is refused",
        never,
        ("tests/conformance/test_store.py", "-k", "expire and lite and not server"),
    ),
    Guard(
        "request-bytes",
        "a request has no more bytes than servers accept",
        never,
        ("tests/unit/milvus/test_rows.py",),
    ),
    Guard(
        "identity-of-the-server",
        "the identity of a collection holds the server's own id, which a restored copy lacks",
        gives("(model, identity)"),
        ("tests/unit/milvus/test_collection_requests.py",),
    ),
    Guard(
        "older-stay",
        "rows that a TRUNCATE cannot remove are reported",
        instead("return"),
        ("tests/conformance/test_store.py", "-k", "delete_older_ends"),
    ),
    Guard(
        "fence-upsert",
        "each request of an upsert needs the lease",
        unwrapped,
        FENCED,
    ),
    Guard(
        "fence-delete",
        "each request of a delete or of a TRUNCATE needs the lease",
        unwrapped,
        FENCED,
    ),
    Guard(
        "fence-field",
        "a new field needs the lease",
        unwrapped,
        FENCED,
    ),
    Guard(
        "truncate-one-table-stored",
        "a TRUNCATE leaves the stored rows of another physical table",
        gives('[row["id"] for row in rows]'),
        ("tests/conformance/test_store.py", "-k", "lite and not server and physical_table"),
    ),
    Guard(
        "no-dotenv",
        "no file beside the installation changes the environment",
        unwrapped,
        ("tests/unit/milvus/test_environment.py",),
    ),
)
