"""No command shows a credential, whatever is wrong: each is planted, and its output is searched."""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows import cli
from flows.settings import load_contract
from operators.contract.sections import Contract
from operators.kafka import dead_letters, topics
from tests.integration.running import write_contract

S = "S3CR3T"
"""Is a part of each credential, and of nothing else."""

NOWHERE = "127.0.0.1:9"

TABLE = {
    "topic": "app.public.docs",
    "collection": "docs",
    "key": ["id"],
    "text": "{doc}",
    "masks": {"mail": "hmac"},
}

COMMANDS = {
    "check": ["check"],
    "check --json": ["check", "--json"],
    "run -v": ["run", "-v", "--exit-at-end"],
    "search": ["search", "x"],
    "list": ["dead-letters", "list"],
    "replay": ["dead-letters", "replay"],
}

Sections = dict[str, Any]


def sections(directory: Path) -> Sections:
    """A contract with a credential wherever one can be, and no server that is there."""
    return {
        "kafka": {
            "bootstrap_servers": NOWHERE,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "username": "rowvec",
            "password": f"{S}-kafka",
        },
        "milvus": {
            "uri": f"http://{NOWHERE}",
            "token": f"root:{S}-milvus",
            "request_timeout_s": 0.2,
            "lease_s": 1.0,
            "retry_for_s": 0.0,
        },
        "embedding": {"model": str(directory / "no-model")},
        "recovery": {"directory": str(directory / "recovery")},
        "schema_registry": {
            "url": f"http://{NOWHERE}",
            "username": "rowvec",
            "password": f"{S}-registry",
            "request_timeout_s": 0.2,
        },
        "source": {"dsn": f"postgresql://rowvec:{S}-dsn@{NOWHERE}/db", "statement_timeout_s": 0.2},
        "masking": {"hmac_key": f"{S}-0123456789abcdef"},
        "tables": [TABLE],
    }


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a command does to its process, and let it wait for no server."""
    for name in list(os.environ):
        if name.startswith(("ROWVEC_", "OTEL_", "BYTEWAX_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    for module in (dead_letters, topics):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.1)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("rowvec", "operators", "flows"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for number, handler in signals.items():
        signal.signal(number, handler)


Told = Callable[[list[str]], tuple[int, str]]


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Told:
    """Run a command in this process: its exit code, and all that it writes, a traceback included."""

    def run(argv: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rowvec", *argv, "-c", str(tmp_path / "rowvec.toml")])
        code, raised = 0, ""
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            code, raised = 1, traceback.format_exc()
        written = capfd.readouterr()
        return code, written.out + written.err + raised

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_servers_that_cannot_be_reached(command: str, tmp_path: Path, told: Told) -> None:
    write_contract(tmp_path / "rowvec.toml", **sections(tmp_path))
    code, output = told(COMMANDS[command])
    assert code == 1
    assert S not in output
    assert "Traceback" not in output
    assert NOWHERE in output


def milvus(uri: str) -> Callable[[Sections], None]:
    return lambda all_: all_["milvus"].update(uri=uri)


def registry(url: str, **more: str) -> Callable[[Sections], None]:
    return lambda all_: all_.update(
        schema_registry={"url": url, "request_timeout_s": 0.2, **more},
        tables=[{**TABLE, "format": "avro"}],
    )


def dsn(text: str) -> Callable[[Sections], None]:
    return lambda all_: all_["source"].update(dsn=text)


def kafka(**changed: Any) -> Callable[[Sections], None]:
    return lambda all_: all_["kafka"].update(changed)


WRONG: dict[str, tuple[Callable[[Sections], None], str]] = {
    "milvus: slash": (milvus(f"https://root:{S}/x@{NOWHERE}"), "milvus.uri"),
    "milvus: plain": (milvus(f"http://root:{S}@{NOWHERE}"), "milvus.uri"),
    "milvus: question mark": (milvus(f"http://root:{S}?x@{NOWHERE}"), "milvus.uri"),
    "milvus: hash": (milvus(f"http://root:1#{S}@{NOWHERE}"), "milvus.uri"),
    "milvus: without a scheme": (milvus(f"root:{S}@{NOWHERE}"), "milvus.uri"),
    "milvus: foreign scheme": (milvus(f"milvus://root:{S}@{NOWHERE}"), "milvus.uri"),
    "registry: plain": (registry(f"http://u:{S}@{NOWHERE}"), f"http://{NOWHERE}"),
    "registry: slash": (registry(f"http://u:{S}/x@{NOWHERE}"), "schema_registry.url"),
    "registry: twice": (
        registry(f"http://u:{S}@{NOWHERE}", username="u", password=S),
        "[schema_registry]",
    ),
    "registry: two": (
        registry(f"http://u:{S}@{NOWHERE},http://v:{S}@{NOWHERE}"),
        f"http://{NOWHERE},http://{NOWHERE}",
    ),
    "registry: foreign scheme": (registry(f"ftp://u:{S}@{NOWHERE}"), "schema_registry.url"),
    "dsn: unreachable": (dsn(f"postgresql://u:{S}@{NOWHERE}/db"), "kafka"),
    "dsn: at sign": (dsn(f"postgresql://u:{S}@x@{NOWHERE}/db"), "dsn in [source]"),
    "dsn: slash": (dsn(f"postgresql://u:{S}/x@{NOWHERE}/db"), "dsn in [source]"),
    "dsn: none": (dsn(f"password={S} {S}"), "dsn in [source]"),
    "dsn: a list": (lambda all_: all_["source"].update(dsn=[S]), "source.dsn"),
    "kafka: in the address": (kafka(bootstrap_servers=f"u:{S}@{NOWHERE}"), "bootstrap_servers"),
    "kafka: no mechanism": (
        lambda all_: all_["kafka"].pop("sasl_mechanism"),
        "needs sasl_mechanism",
    ),
    "kafka: a key with a passphrase": (
        kafka(security_protocol="SSL", key_password=S, key_file="no.pem"),
        "kafka",
    ),
    "kafka: an option that is none": (kafka(librdkafka={"sasl.pasword": S}), "sasl.pasword"),
    "kafka: a keystore": (
        kafka(
            librdkafka={
                "security.protocol": "SSL",
                "ssl.keystore.location": "none.p12",
                "ssl.keystore.password": S,
            }
        ),
        "kafka",
    ),
    "kafka: an option of a wrong type": (kafka(librdkafka={"sasl.password": [S]}), "librdkafka"),
    "kafka: a section that is none": (lambda all_: all_.update(kafka=S), "kafka"),
    "kafka: an unknown key": (kafka(pasword=S), "did you mean `password`"),
    "hmac_key: too short": (lambda all_: all_["masking"].update(hmac_key=S), "at least 16 bytes"),
    "hmac_key: a number of texts": (lambda all_: all_["masking"].update(hmac_key=[S]), "hmac_key"),
    "milvus: a table for a token": (
        lambda all_: all_["milvus"].update(token={"user": S}),
        "milvus.token",
    ),
    "milvus: a token for a number": (
        lambda all_: all_["milvus"].update(lease_s=S),
        "milvus.lease_s",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_is_wrong(wrong: str, tmp_path: Path, told: Told) -> None:
    change, named = WRONG[wrong]
    all_ = sections(tmp_path)
    change(all_)
    write_contract(tmp_path / "rowvec.toml", **all_)
    code, output = told(["check"])
    assert code in (1, 2)
    assert S not in output
    assert named in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROWVEC_KAFKA", f'{{"password": "{S}"'),
        ("ROWVEC_KAFKA", f'"{S}"'),
        ("ROWVEC_KAFKA__LIBRDKAFKA", f'{{"sasl.password": "{S}"'),
        ("ROWVEC_KAFKA__SOURCE_BATCH_SIZE", S),
        ("ROWVEC_KAFKA__BOOTSTRAP_SERVERS", f"u:{S}@kafka:9092"),
        ("ROWVEC_MASKING__HMAC_KEY", S),
        ("ROWVEC_MILVUS__URI", f"https://root:{S}/x@host"),
        ("ROWVEC_MILVUS__REQUEST_TIMEOUT_S", S),
        ("ROWVEC_SOURCE", S),
        ("ROWVEC_TABLES", f'[{{"topic": "{S}'),
        ("ROWVEC_SCHEMA_REGISTRY__URL", f"u:{S}@registry:8081"),
        ("ROWVEC_SCHEMA_REGISTRY__PASSWORD__X", S),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"authorization: Bearer {S}"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"authorization={S},{S}"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://u:{S}@collector:port"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", S),
    ],
)
@pytest.mark.parametrize("command", ["check", "run -v"])
def test_a_variable_that_is_wrong(
    command: str, name: str, value: str, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    write_contract(tmp_path / "rowvec.toml", **sections(tmp_path))
    code, output = told(COMMANDS[command])
    assert code == 2, output
    assert S not in output
    assert "Traceback" not in output


def missing(_directory: Path) -> None:
    pass


def not_utf_8(directory: Path) -> None:
    directory.mkdir()
    (directory / "rowvec_kafka__password").write_bytes(S.encode() + b"\xff")


def no_json(directory: Path) -> None:
    directory.mkdir()
    (directory / "rowvec_kafka").write_text(f'{{"password": "{S}"', "utf-8")


def a_wrong_type(directory: Path) -> None:
    directory.mkdir()
    (directory / "rowvec_milvus__lease_s").write_text(S, "utf-8")


@pytest.mark.parametrize("make", [missing, not_utf_8, no_json, a_wrong_type])
def test_a_secret_file_that_is_wrong(
    make: Callable[[Path], None], tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "secrets")
    monkeypatch.setenv("ROWVEC_SECRETS_DIR", str(tmp_path / "secrets"))
    write_contract(tmp_path / "rowvec.toml", **sections(tmp_path))
    code, output = told(["check"])
    assert code == 2, output
    assert S not in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "text",
    [
        f'[kafka]\npassword = {S}\nbootstrap_servers = "x"',
        f'[kafka]\npassword = "{S}',
        f'[kafka]\npassword = "{S}"\npassword = "{S}"',
        f'kafka.password = "{S}"\nkafka.password.x = "{S}"',
        "x = " + "[" * 3000 + f'"{S}"' + "]" * 3000,
    ],
)
def test_a_file_that_is_no_toml(text: str, tmp_path: Path, told: Told) -> None:
    (tmp_path / "rowvec.toml").write_text(text, "utf-8")
    code, output = told(["check"])
    assert code == 2, output
    assert S not in output
    assert "Traceback" not in output


def test_a_contract_that_is_printed(tmp_path: Path) -> None:
    all_ = sections(tmp_path)
    registry(f"http://u:{S}@{NOWHERE}")(all_)
    kafka(librdkafka={"sasl.password": S})(all_)
    loaded = load_contract(write_contract(tmp_path / "rowvec.toml", **all_))
    for shown in (repr(loaded), str(loaded), f"{loaded.schema_registry!r}", repr([loaded.kafka])):
        assert S not in shown
    all_["tables"] = [TABLE, TABLE]
    with pytest.raises(ValidationError) as caught:
        Contract.model_validate_json(json.dumps(all_))
    assert S not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("section", ["kafka", "milvus", "registry"])
@pytest.mark.parametrize("command", ["check", "run -v"])
def test_a_secret_that_would_go_over_a_network_without_tls(
    section: str, command: str, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning comes before anything is sent; a name that cannot be looked up ends the check."""
    from flows.process import preflight

    order = ["recovery", "registry", "kafka", "milvus"]
    far = "no-such-host.invalid"
    all_ = sections(tmp_path)
    match section:
        case "kafka":
            all_["kafka"]["bootstrap_servers"] = f"{far}:9092"
        case "milvus":
            all_["milvus"]["uri"] = f"http://{far}:19530"
        case "registry":
            all_["schema_registry"]["url"] = f"http://{far}"
    # `run` ends at the first check that fails, so those before the one that warns pass here.
    for name in order[: order.index(section)]:
        monkeypatch.setattr(preflight, f"_{name}", lambda *_: "passed over")
    write_contract(tmp_path / "rowvec.toml", **all_)
    code, output = told(COMMANDS[command])
    assert code == 1
    assert far in output
    assert output.count("without TLS") == 1
    assert S not in output


@pytest.mark.parametrize(
    "proxy", [f"http://u:{S}@{NOWHERE}", f"u:{S}@{NOWHERE}", f"http://u:{S}/x@p", f"u:{S}?x@p"]
)
@pytest.mark.parametrize("command", ["check", "search"])
def test_a_proxy_that_cannot_be_reached(
    command: str, proxy: str, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    write_contract(tmp_path / "rowvec.toml", **sections(tmp_path))
    code, output = told(COMMANDS[command])
    assert code == (1 if NOWHERE in proxy else 2)
    assert S not in output
    assert "Traceback" not in output
