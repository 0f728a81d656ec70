"""What pytest is given for a guard: fast tests that are about it."""

HISTORIES = ("tests/properties/test_known_histories.py", "tests/properties/test_known_shapes.py")
DEDUP = ("tests/unit/stages/test_dedup.py", "tests/unit/state/test_version_map.py", *HISTORIES)
RESOLVE = (*HISTORIES, "tests/unit/stages/test_dedup.py")
SOURCE = ("tests/unit/stages/test_source.py", "tests/properties/test_known_histories.py")
ROUTE = ("tests/unit/stages/test_route.py", "tests/properties/test_known_shapes.py")
PLACES = ("tests/unit/stages/test_places.py",)
TABLES = ("tests/unit/stages/test_several_tables.py",)
LANES = ("tests/unit/stages/test_upsert.py",)
WRITER = ("tests/unit/stages/test_lane_writer.py", "tests/unit/stages/test_upsert.py", *HISTORIES)
REFUSED = ("tests/unit/stages/test_refused_changes.py",)
REQUESTS = (
    "tests/unit/store/test_row_requests.py",
    "tests/unit/stages/test_lane_writer.py",
    "tests/unit/stages/test_upsert.py",
)
CARRYING = (
    "tests/unit/toast/test_resolver.py",
    "tests/unit/toast/test_completer.py",
    "tests/unit/stages/test_settle.py",
    *HISTORIES,
)
EVENTS = ("tests/unit/codec/test_decoder.py", "tests/unit/codec/test_log_positions.py")
SHAPES = ("tests/unit/codec/test_shapes.py",)
NUMBERS = ("tests/unit/codec/test_exact_numbers.py",)
BIG_VALUES = ("tests/unit/codec/test_big_values.py",)
KEY_TYPES = ("tests/unit/codec/test_key_types.py",)
ORDER = ("tests/unit/changes/test_version.py",)
KEYS = ("tests/unit/codec/test_row_keys.py",)
RENDERING = ("tests/unit/rendering/test_renderer.py",)
EMBED = ("tests/unit/stages/test_embed.py",)
VERSIONS = ("tests/unit/state/test_version_map.py",)
FROZEN = ("tests/unit/state/test_frozen_versions.py",)
MASKING = ("tests/unit/rendering/test_masks.py", "-k", "escapes or whole_value")
RETRY = ("tests/unit/test_retry.py",)
OPEN_FILES = ("tests/unit/process/test_open_files.py",)
PEEKING = ("tests/unit/process/test_peeking.py",)
EXPORTERS = ("tests/unit/process/test_exporters.py",)
PRINTABLE = ("tests/unit/test_printable.py",)
SECRETS = ("tests/unit/process/test_secrets.py",)
REGISTRY = ("tests/unit/codec/test_registry_client.py",)
RECOVERY = ("tests/unit/recovery/test_directory.py",)
LEDGER = ("tests/unit/ownership/test_ledger.py",)
LEASE = ("tests/unit/ownership/test_lease.py",)
FENCED = ("tests/unit/milvus/test_fence.py",)
FIELDS = ("tests/unit/contract/test_sections.py", "-k", "column or field")
NAMES = ("tests/conformance/test_collection_names.py", "-k", "memory or identities or slow")
TIMER = (
    "tests/unit/ownership/test_kill_timer.py",
    "-k",
    "how_a_process_ends or forked_child or first_process",
)
GOLDEN = ("tests/unit/state/test_golden.py",)
KAFKA = ("tests/unit/kafka/test_reader.py",)
CLIENTS = ("tests/unit/kafka/test_config.py",)
LETTERS = ("tests/unit/kafka/test_dead_letters.py",)
ERRORS = ("tests/unit/milvus/test_errors.py",)
STORE = (
    "tests/conformance/test_store.py",
    "-k",
    "lite and not server and (refused or reaches)",
)
TRANSFORMER = "tests/unit/model/test_transformer.py"
PROMPTS = "tests/unit/model/test_prompts.py"
NETWORKS = "tests/unit/model/test_other_networks.py"
MODEL = (TRANSFORMER, "-k", "finite or does_not_fit")
