"""Reads the contract from TOML, `ROWVEC_…` variables and secret files; nothing else reads them.

Every key of the contract can be set by a variable: `ROWVEC_KAFKA__BOOTSTRAP_SERVERS` is
`bootstrap_servers` in `[kafka]`. A secret can also be a file, such as `rowvec_kafka__password` in the
directory that `ROWVEC_SECRETS_DIR` names. Variables override files, and files override TOML.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError

from operators.contract.addresses import is_proxy
from operators.contract.sections import (
    Contract,
    EmbeddingSection,
    FlowSection,
    KafkaSection,
    MaskingSection,
    MilvusSection,
    RecoverySection,
    SchemaRegistrySection,
    SourceSection,
)
from operators.contract.table import Chunks, ColumnSpec, Condition, Drift, Mask, TableSection
from operators.errors import ContractError
from operators.ownership.accept_options import Accept

CONTRACT_VARIABLE = "ROWVEC_CONTRACT"

SECRETS_VARIABLE = "ROWVEC_SECRETS_DIR"

HEARTBEAT_VARIABLE = "ROWVEC_HEARTBEAT_FILE"

ACCEPT_VARIABLE = "ROWVEC_ACCEPT"

DEFAULT_CONTRACT = Path("rowvec.toml")

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"})

_SECTIONS: dict[str, type] = {
    "kafka": KafkaSection,
    "milvus": MilvusSection,
    "embedding": EmbeddingSection,
    "recovery": RecoverySection,
    "flow": FlowSection,
    "schema_registry": SchemaRegistrySection,
    "source": SourceSection,
    "masking": MaskingSection,
    "tables": TableSection,
    "columns": ColumnSpec,
    "filter": Condition,
    "masks": Mask,
    "chunks": Chunks,
    "drift": Drift,
}


@dataclass(frozen=True, slots=True)
class Process:
    """Settings of this process, as opposed to the contract, which all processes share.

    Attributes:
        heartbeat: File to touch at every checkpoint, for a liveness probe.
        recovery: Recovery directory in the variable of Bytewax's own command.
        accepted: Findings that the user accepts for this start.
    """

    contract: Path
    heartbeat: Path | None
    recovery: Path | None = None
    accepted: frozenset[Accept] = frozenset()


def process_from_env() -> Process:
    """Settings of this process from its environment.

    Raises:
        ContractError: `ROWVEC_ACCEPT` has an unknown value, or `ROWVEC_HEARTBEAT_FILE` can be no file.
    """
    heartbeat = os.environ.get(HEARTBEAT_VARIABLE)
    recovery = os.environ.get("BYTEWAX_RECOVERY_DIRECTORY")
    return Process(
        contract=Path(os.environ.get(CONTRACT_VARIABLE) or DEFAULT_CONTRACT),
        heartbeat=_heartbeat(Path(heartbeat)) if heartbeat else None,
        recovery=Path(recovery) if recovery else None,
        accepted=_accepted(os.environ.get(ACCEPT_VARIABLE, "")),
    )


def _heartbeat(path: Path) -> Path:
    if path.is_dir() or not path.parent.is_dir():
        what = f"'{path}' is a directory" if path.is_dir() else f"'{path.parent}' is no directory"
        raise ContractError(
            subject=HEARTBEAT_VARIABLE, cause=what, hint="name a file in a directory that is there"
        )
    return path


def _accepted(text: str) -> frozenset[Accept]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Accept)]
    if unknown:
        raise ContractError(
            subject=ACCEPT_VARIABLE,
            cause=f"'{unknown[0]}' is unknown",
            hint=f"there are {', '.join(Accept)}, with commas between them",
        )
    return frozenset(map(Accept, names))


def bytewax_cluster() -> tuple[int, tuple[str, ...]]:
    """`cluster_from` for Bytewax's own command, which is told by variables.

    Raises:
        ContractError: The variables do not fit together.
    """
    number = os.environ.get("BYTEWAX_PROCESS_ID", "0")
    if not number.isdecimal():
        raise ContractError(subject="BYTEWAX_PROCESS_ID", cause=f"'{number}' is no number")
    return cluster_from(int(number), os.environ.get("BYTEWAX_ADDRESSES", ""))


def cluster_from(process_id: int, addresses: str) -> tuple[int, tuple[str, ...]]:
    """This process's number and every process's address, completed from Bytewax's variables.

    In a StatefulSet the number comes from the pod's name and the addresses from a file.

    Raises:
        ContractError: The variables contradict each other.
    """
    pod = os.environ.get("BYTEWAX_POD_NAME")
    stateful_set = os.environ.get("BYTEWAX_STATEFULSET_NAME")
    hostfile = os.environ.get("BYTEWAX_HOSTFILE_PATH")
    if not addresses and pod and stateful_set:
        number = pod.removeprefix(f"{stateful_set}-")
        if not number.isdecimal():
            raise ContractError(
                subject="BYTEWAX_POD_NAME",
                cause=f"'{pod}' is no pod of the StatefulSet '{stateful_set}'",
                hint="set BYTEWAX_STATEFULSET_NAME to its name",
            )
        process_id = int(number)
    if not addresses and hostfile:
        try:
            addresses = ";".join(Path(hostfile).read_text("utf-8").split())
        except OSError as error:
            raise ContractError(
                subject="BYTEWAX_HOSTFILE_PATH", cause=f"cannot be read: {error.strerror}"
            ) from None
    listed = tuple(part.strip() for part in addresses.split(";") if part.strip())
    if process_id and process_id >= max(1, len(listed)):
        raise ContractError(
            subject=f"process {process_id}",
            cause=f"there are {len(listed)} addresses",
            hint="name the address of every process in BYTEWAX_ADDRESSES",
        )
    return process_id, listed


def load_contract(path: Path) -> Contract:
    """Read the contract in `path`; variables and secret files override it.

    Raises:
        ContractError: It cannot be read or is invalid; the message lists all problems.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ContractError(
            subject=str(path),
            cause="there is no such file",
            hint=f"name the contract with --contract or {CONTRACT_VARIABLE}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(subject=str(path), cause=f"it cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ContractError(subject=str(path), cause=f"it is no TOML: {error}") from None
    except RecursionError:
        raise ContractError(subject=str(path), cause="its values are nested too deep") from None
    return contract_from(data, str(path))


def contract_from(data: dict[str, Any], subject: str) -> Contract:
    """Build the contract from `data`; variables and secret files override it.

    Raises:
        ContractError: It is invalid; the message lists all problems, each with its key.
    """
    _check_proxies()
    secrets = os.environ.get(SECRETS_VARIABLE)
    if secrets and not Path(secrets).is_dir():
        raise ContractError(
            subject=SECRETS_VARIABLE,
            cause=f"'{secrets}' is no directory",
            hint="mount the secrets there, or unset it",
        )
    try:
        return _Settings(**data)
    except ValidationError as error:
        # Messages contain no inputs, because one of them may be a password.
        details = error.errors(include_url=False)
        problems = [_problem(each) for each in details if not _follows_from_another(each, details)]
    except SettingsError as error:
        problems = [f"environment: {error}"]
    except UnicodeDecodeError:
        problems = [f"{SECRETS_VARIABLE}: a file in it is no text in UTF-8"]
    except OSError as error:
        problems = [f"{SECRETS_VARIABLE}: it cannot be read: {error.strerror}"]
    except RecursionError:
        problems = ["a value of it, or of a variable, is nested too deep"]
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ContractError(subject=subject, cause=count, details=problems, hint="nothing was started")


def _check_proxies() -> None:
    """Refuse a proxy that is none: each client would tell it with a traceback that quotes it."""
    for name, value in os.environ.items():
        if name.lower() in _PROXIES and value.strip() and not is_proxy(value.strip()):
            raise ContractError(
                subject=name,
                cause="it is no address of a proxy",
                hint="write http://user:password@host:port, with whatever is no letter or digit in "
                "the password percent-encoded; or unset it",
            )


class _Settings(Contract, BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="ROWVEC_",
        env_nested_delimiter="__",
        secrets_dir=None,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of precedence: variables, secret files, then the TOML that was passed in."""
        sources: list[PydanticBaseSettingsSource] = [env_settings]
        directory = os.environ.get(SECRETS_VARIABLE)
        if directory:
            assert isinstance(file_secret_settings, SecretsSettingsSource)
            sources.append(
                NestedSecretsSettingsSource(
                    file_secret_settings,
                    secrets_dir=directory,
                    secrets_dir_missing="error",
                    secrets_prefix="rowvec_",
                    secrets_nested_delimiter="__",
                )
            )
        return (*sources, init_settings)


def _problem(details: ErrorDetails) -> str:
    location = [str(part) for part in details["loc"]]
    key = "".join(_path(details["loc"])) or "the contract"
    message = details["msg"].removeprefix("Value error, ")
    match details["type"]:
        case "missing":
            # A variable can set a key of a section, but not one in the list of tables.
            variable = "" if location[0] == "tables" and location[1:] else _variable(location)
            return f"{key}: is missing; add it" + (f", or set {variable}" if variable else "")
        case "extra_forbidden":
            return f"{key}: is no key of the contract; {_suggestion(location)}"
        case "string_pattern_mismatch":
            pattern = details["ctx"]["pattern"]  # always present for this type of error
            return f"{key}: does not look as it must ({pattern})"
        case "too_short":
            return f"{key}: must not be empty"
        case _:
            return f"{key}: {message[:1].lower()}{message[1:]}"


def _follows_from_another(each: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """Whether a problem is only the consequence of another one.

    pydantic leaves out invalid tables, and then also reports that there are too few.
    """
    return each["type"] == "too_short" and any(
        other["loc"][: len(each["loc"])] == each["loc"] and other is not each for other in details
    )


def _path(location: tuple[int | str, ...]) -> Iterator[str]:
    for index, part in enumerate(location):
        if isinstance(part, int):
            yield f"[{part}]"
        else:
            yield f".{part}" if index else part


def _variable(location: list[str]) -> str:
    return "ROWVEC_" + "__".join(location).upper()


def _suggestion(location: list[str]) -> str:
    section = next((s for s in reversed(location[:-1]) if s in _SECTIONS), None)
    names = list((Contract if section is None else _SECTIONS[section]).model_fields)  # type: ignore[attr-defined]
    close = difflib.get_close_matches(location[-1], names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there are {', '.join(names)}"
