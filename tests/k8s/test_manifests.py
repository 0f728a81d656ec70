"""Renders and validates each kustomization, and checks what Bytewax and restricted Pod Security need.

`kubectl kustomize` renders if it is on the PATH. Otherwise this file's subset of Kustomize does, which
refuses features that it does not know, and is compared with `kubectl` where that is installed.
"""

import copy
import functools
import json
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from operators.contract.sections import Contract

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
TARGETS = ("base", "overlays/gpu", "overlays/cluster")
KUBERNETES = ("1.31", kubernetes_validate.latest_version())
PEERS = 9999
UID = 10001
PLAIN_NAMES = {"ROWVEC_CONTRACT", "ROWVEC_SECRETS_DIR", "ROWVEC_HEARTBEAT_FILE"}
"""Settings of the process itself; every other `ROWVEC_…` variable overrides a key of the contract."""

Manifest = dict[str, Any]
Rendered = dict[tuple[str, str], Manifest]

each_target = pytest.mark.parametrize("target", TARGETS)


# --- rendering ------------------------------------------------------------------------------------


def _json6902(manifest: Manifest, operations: list[dict[str, Any]]) -> None:
    for operation in operations:
        *path, last = (
            token.replace("~1", "/").replace("~0", "~")
            for token in operation["path"][1:].split("/")
        )
        parent: Any = manifest
        for token in path:
            parent = parent[int(token) if isinstance(parent, list) else token]
        key = int(last) if isinstance(parent, list) and last != "-" else last
        match operation["op"]:
            case "add" if isinstance(parent, list):
                parent.insert(len(parent) if key == "-" else key, operation["value"])
            case "add":
                parent[key] = operation["value"]
            case "replace":
                del parent[key]  # Fails if the key is missing, as JSON Patch demands.
                if isinstance(parent, list):
                    parent.insert(key, operation["value"])
                else:
                    parent[key] = operation["value"]
            case "remove":
                del parent[key]
            case unknown:
                raise NotImplementedError(unknown)


def _known(mapping: dict[str, Any], *keys: str) -> None:
    if unknown := mapping.keys() - set(keys):
        raise NotImplementedError(f"the test renderer does not know {sorted(unknown)}")


def _config_map(folder: Path, generator: dict[str, Any]) -> Manifest:
    _known(generator, "name", "files", "options")
    _known(generator["options"], "disableNameSuffixHash", "labels")
    assert generator["options"]["disableNameSuffixHash"] is True
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": generator["name"], "labels": generator["options"]["labels"]},
        "data": {name: (folder / name).read_text("utf-8") for name in generator["files"]},
    }


def _kustomize_subset(folder: Path) -> Rendered:
    spec = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    _known(
        spec,
        *("apiVersion", "kind", "namespace", "resources"),
        *("configMapGenerator", "patches", "images"),
    )
    found: list[Manifest] = []
    for name in spec["resources"]:
        if (path := folder / name).is_dir():
            found += _kustomize_subset(path.resolve()).values()
        else:
            found += yaml.safe_load_all(path.read_text("utf-8"))
    found += [_config_map(folder, generator) for generator in spec.get("configMapGenerator", [])]
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(rendered) == len(found), "two manifests of one kind and name"
    for each in rendered.values():
        if "namespace" in spec:
            each["metadata"]["namespace"] = spec["namespace"]
        for container in _containers(each):
            for image in spec.get("images", []):
                _known(image, "name", "newName", "newTag")
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for patch in spec.get("patches", []):
        _known(patch, "path", "target")
        _known(patch["target"], "kind", "name")
        operations = yaml.safe_load((folder / patch["path"]).read_text("utf-8"))
        _json6902(rendered[patch["target"]["kind"], patch["target"]["name"]], operations)
    return rendered


def _kubectl(folder: Path) -> Rendered:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {(m["kind"], m["metadata"]["name"]): m for m in yaml.safe_load_all(done.stdout)}


@functools.cache
def _render_once(target: str) -> Rendered:
    render = _kubectl if shutil.which("kubectl") else _kustomize_subset
    return render(K8S / target)


def rendered(target: str) -> Rendered:
    return copy.deepcopy(_render_once(target))


# --- reading --------------------------------------------------------------------------------------


def _containers(manifest: Manifest) -> Iterator[dict[str, Any]]:
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    yield from pod.get("initContainers", [])
    yield from pod.get("containers", [])


def stateful_set(target: str) -> Manifest:
    (found,) = (m for (kind, _), m in rendered(target).items() if kind == "StatefulSet")
    return found


def pod_spec(target: str) -> dict[str, Any]:
    spec: dict[str, Any] = stateful_set(target)["spec"]["template"]["spec"]
    return spec


def worker(target: str) -> dict[str, Any]:
    (found,) = pod_spec(target)["containers"]
    assert isinstance(found, dict)
    return found


def environment(target: str) -> dict[str, Any]:
    names = [variable["name"] for variable in worker(target)["env"]]
    assert len(set(names)) == len(names), "a variable is set twice"
    return {variable["name"]: variable.get("value") for variable in worker(target)["env"]}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def pod_labels(target: str) -> dict[str, str]:
    labels: dict[str, str] = stateful_set(target)["spec"]["template"]["metadata"]["labels"]
    return labels


def policies(target: str) -> list[dict[str, Any]]:
    return [m["spec"] for (kind, _), m in rendered(target).items() if kind == "NetworkPolicy"]


def opens(rule: dict[str, Any], port: int, protocol: str = "TCP") -> bool:
    if "ports" not in rule:
        return True
    return any(
        each.get("protocol", "TCP") == protocol
        and ("port" not in each or each["port"] <= port <= each.get("endPort", each["port"]))
        for each in rule["ports"]
    )


def contract(target: str) -> Contract:
    """The contract as the process reads it: the mounted file, overridden by the pod's environment."""
    data = tomllib.loads(rendered(target)["ConfigMap", "rowvec-contract"]["data"]["contract.toml"])
    for name, value in environment(target).items():
        if name.startswith("ROWVEC_") and name not in PLAIN_NAMES:
            section, key = name.removeprefix("ROWVEC_").lower().split("__")
            data.setdefault(section, {})[key] = value
    return Contract.model_validate(data)


def fields_of(section: str) -> dict[str, FieldInfo]:
    """The keys of a section of the contract; none for `tables`, which is a list."""
    match Contract.model_fields.get(section):
        case FieldInfo(annotation=type() as model) if issubclass(model, BaseModel):
            return model.model_fields
    return {}


def exec_probes(target: str) -> dict[str, dict[str, Any]]:
    return {name: probe for name, probe in worker(target).items() if name.endswith("Probe")}


# --- whole manifests ------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to compare with")
@each_target
def test_the_test_renderer_agrees_with_kubectl(target: str) -> None:
    assert _kustomize_subset(K8S / target) == _kubectl(K8S / target)


def test_every_kustomization_is_tested() -> None:
    assert {
        path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")
    } == set(TARGETS)


@pytest.mark.parametrize("version", KUBERNETES)
@each_target
def test_manifests_match_the_schemas_of_kubernetes(target: str, version: str) -> None:
    for manifest in rendered(target).values():
        kubernetes_validate.validate(manifest, version, strict=True)


@each_target
def test_everything_is_labelled_and_lies_in_one_namespace(target: str) -> None:
    for manifest in rendered(target).values():
        assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "rowvec"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "rowvec"
    assert {m["metadata"]["namespace"] for m in rendered(target).values()} == {"rowvec"}


@each_target
def test_what_a_pod_mounts_exists(target: str) -> None:
    manifests, pod = rendered(target), pod_spec(target)
    templates = stateful_set(target)["spec"].get("volumeClaimTemplates", [])
    volumes = [volume["name"] for volume in pod["volumes"]] + [
        t["metadata"]["name"] for t in templates
    ]
    assert len(set(volumes)) == len(volumes)
    mounts = [m for c in _containers(stateful_set(target)) for m in c["volumeMounts"]]
    assert {mount["name"] for mount in mounts} == set(volumes)
    for volume in pod["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in manifests
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in manifests
    assert ("ServiceAccount", pod["serviceAccountName"]) in manifests


# --- the pods -------------------------------------------------------------------------------------


@each_target
def test_pods_meet_restricted_pod_security(target: str) -> None:
    pod = pod_spec(target)
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == UID
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])
    containers = list(_containers(stateful_set(target)))
    assert len(containers) == 2
    for container in containers:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not context.get("privileged")
        assert context.get("runAsUser", UID) != 0
        assert not any("hostPort" in port for port in container.get("ports", []))


@each_target
def test_no_service_account_token_and_no_service_variables(target: str) -> None:
    pod = pod_spec(target)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    account = rendered(target)["ServiceAccount", pod["serviceAccountName"]]
    assert account["automountServiceAccountToken"] is False


@each_target
def test_no_process_is_wrapped_in_a_shell(target: str) -> None:
    assert "command" not in worker(target), "the entrypoint is the image's"
    assert worker(target)["args"] == ["run"]
    for container in _containers(stateful_set(target)):
        assert Path(container.get("command", ["rowvec"])[0]).name not in {"sh", "bash", "dash"}


@each_target
def test_containers_have_resources_and_a_pinned_image(target: str) -> None:
    for container in _containers(stateful_set(target)):
        assert re.search(r":[^:/]+$", container["image"])
        assert not container["image"].endswith(":latest")
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


@each_target
def test_what_is_written_lies_on_a_volume(target: str) -> None:
    mounts = {m["mountPath"]: m["name"] for m in worker(target)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(target)["volumes"]}
    settings = environment(target)
    assert mounts[str(Path(settings["ROWVEC_HEARTBEAT_FILE"]).parent)] == "tmp"
    for path in ("/tmp", settings["HF_HOME"]):
        assert "emptyDir" in volumes[mounts[path]]
    assert mounts[str(contract(target).recovery.directory.parent)] == "recovery"
    assert settings["HF_HUB_OFFLINE"] == "1"


# --- probes and shutdown --------------------------------------------------------------------------


@each_target
def test_probes_run_commands_and_touch_no_port(target: str) -> None:
    assert exec_probes(target).keys() == {"startupProbe", "readinessProbe", "livenessProbe"}
    for probe in exec_probes(target).values():
        assert not probe.keys() & {"tcpSocket", "httpGet", "grpc"}
        assert probe["exec"]["command"][:2] == ["rowvec", "health"]
        assert probe["timeoutSeconds"] >= 10, "starting Python takes longer than the default second"
    assert exec_probes(target)["startupProbe"]["exec"]["command"][2:] == ["ready"]
    assert exec_probes(target)["readinessProbe"]["exec"]["command"][2:] == ["ready"]


@each_target
def test_liveness_outlasts_an_outage_of_milvus(target: str) -> None:
    command = exec_probes(target)["livenessProbe"]["exec"]["command"]
    assert command[2:4] == ["live", "--max-age"]
    milvus = contract(target).milvus
    assert int(command[4]) > milvus.retry_for_s + milvus.request_timeout_s


@each_target
def test_startup_covers_the_loading_of_the_model(target: str) -> None:
    probe = exec_probes(target)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


@each_target
def test_the_grace_period_covers_the_drain(target: str) -> None:
    read = contract(target)
    # A stop waits for the open window, the open epoch, and one request per lane with one retry.
    drain = read.flow.window_ms / 1_000 + read.recovery.epoch_interval_s
    drain += 2 * read.milvus.request_timeout_s
    assert pod_spec(target)["terminationGracePeriodSeconds"] >= 2 * drain


# --- the workers together -------------------------------------------------------------------------


@each_target
def test_all_workers_start_and_stop_together(target: str) -> None:
    spec = stateful_set(target)["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert not any(kind == "HorizontalPodAutoscaler" for kind, _ in rendered(target))


@each_target
def test_the_headless_service_names_the_workers(target: str) -> None:
    spec = stateful_set(target)["spec"]
    service = rendered(target)["Service", spec["serviceName"]]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"].items() <= pod_labels(target).items()
    assert [port["port"] for port in service["ports"]] == [PEERS]
    assert [(p["name"], p["containerPort"]) for p in worker(target)["ports"]] == [("peers", PEERS)]
    assert service["ports"][0]["targetPort"] == "peers"
    assert selects(spec["selector"], pod_labels(target))


@each_target
def test_several_workers_know_each_other(target: str) -> None:
    manifest, settings = stateful_set(target), environment(target)
    bytewax = {name: value for name, value in settings.items() if name.startswith("BYTEWAX_")}
    if manifest["spec"]["replicas"] == 1:
        assert not bytewax, "a single worker needs no peers"
        return
    assert bytewax == {
        "BYTEWAX_POD_NAME": None,
        "BYTEWAX_STATEFULSET_NAME": manifest["metadata"]["name"],
        "BYTEWAX_HOSTFILE_PATH": "/etc/rowvec/hosts/hostfile",
    }
    (pod_name,) = (v["valueFrom"] for v in worker(target)["env"] if v["name"] == "BYTEWAX_POD_NAME")
    assert pod_name == {"fieldRef": {"fieldPath": "metadata.name"}}
    (mount,) = (m for m in worker(target)["volumeMounts"] if m["mountPath"] == "/etc/rowvec/hosts")
    (volume,) = (v for v in pod_spec(target)["volumes"] if v["name"] == mount["name"])
    hostfile = rendered(target)["ConfigMap", volume["configMap"]["name"]]["data"]["hostfile"]
    name, service = manifest["metadata"]["name"], manifest["spec"]["serviceName"]
    domain = f"{manifest['metadata']['namespace']}.svc.cluster.local"
    assert hostfile.split() == [
        f"{name}-{i}.{service}.{domain}:{PEERS}" for i in range(manifest["spec"]["replicas"])
    ]


def test_the_cluster_overlay_has_several_workers() -> None:
    assert stateful_set("overlays/cluster")["spec"]["replicas"] == 3


@each_target
def test_each_part_of_the_recovery_store_exists_once(target: str) -> None:
    spec = stateful_set(target)["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    templates = [t["metadata"]["name"] for t in spec.get("volumeClaimTemplates", [])]
    if spec["replicas"] == 1:
        assert templates == ["recovery"]
        return
    assert templates == [], "a claim per worker splits the store"
    (volume,) = (v for v in pod_spec(target)["volumes"] if v["name"] == "recovery")
    assert "persistentVolumeClaim" in volume
    # SQLite's WAL mode works on one host only, so all pods that share the volume must be on one node.
    terms = pod_spec(target)["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert any(
        term["topologyKey"] == "kubernetes.io/hostname"
        and selects(term["labelSelector"], pod_labels(target))
        for term in terms
    )


@each_target
def test_the_recovery_directory_is_made_private(target: str, tmp_path: Path) -> None:
    (init,) = pod_spec(target)["initContainers"]
    assert init["args"] == [str(contract(target).recovery.directory)]
    mounts = [m for m in worker(target)["volumeMounts"] if m["name"] == "recovery"]
    assert init["volumeMounts"] == mounts, "it prepares what the worker sees"
    python, *rest = init["command"]
    assert python == "python"
    directory = tmp_path / "recovery"
    for _ in range(2):  # The second run finds the directory with the mode that fsGroup has set.
        subprocess.run([sys.executable, *rest, str(directory)], check=True)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        directory.chmod(0o2770)


@each_target
def test_the_disruption_budget_selects_the_pods(target: str) -> None:
    budget = rendered(target)["PodDisruptionBudget", "rowvec"]["spec"]
    assert selects(budget["selector"], pod_labels(target))
    several = stateful_set(target)["spec"]["replicas"] > 1
    assert budget["maxUnavailable"] == (0 if several else 1)
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


# --- the network ----------------------------------------------------------------------------------


@each_target
def test_the_network_is_closed_by_default(target: str) -> None:
    assert any(
        selects(policy["podSelector"], pod_labels(target))
        and set(policy["policyTypes"]) == {"Ingress", "Egress"}
        and not policy.get("ingress")
        and not policy.get("egress")
        for policy in policies(target)
    )


@each_target
def test_only_workers_reach_the_port_of_the_workers(target: str) -> None:
    labels = pod_labels(target)
    ingress = [rule for policy in policies(target) for rule in policy.get("ingress", [])]
    egress = [rule for policy in policies(target) for rule in policy.get("egress", [])]
    assert len(ingress) == 1, "nothing else comes in"
    names = ("app.kubernetes.io/name", "app.kubernetes.io/component")
    between = {"matchLabels": {name: labels[name] for name in names}}
    for direction, rules in (("from", ingress), ("to", egress)):
        open_rules = [rule for rule in rules if opens(rule, PEERS)]
        assert [rule.get(direction) for rule in open_rules] == [[{"podSelector": between}]]


@each_target
def test_what_the_flow_talks_to_is_open_and_nothing_else(target: str) -> None:
    egress = [rule for policy in policies(target) for rule in policy.get("egress", [])]
    read = contract(target)
    addresses = [*read.kafka.bootstrap_servers.split(","), read.milvus.uri]
    addresses += [environment(target)["OTEL_EXPORTER_OTLP_ENDPOINT"]]
    wanted = {int(address.rsplit(":", 1)[1]) for address in addresses}
    assert all(any(opens(rule, port) for rule in egress) for port in wanted)
    assert any(opens(rule, 53, "UDP") for rule in egress)
    reachable = {port for port in range(65_536) for rule in egress if opens(rule, port)}
    assert reachable == {53, 9092, 9093, 9094, 19530, 4317, 4318, PEERS}


# --- configuration --------------------------------------------------------------------------------


@each_target
def test_the_contract_and_its_overrides_are_valid(target: str) -> None:
    assert contract(target).tables
    mount = {m["name"]: m["mountPath"] for m in worker(target)["volumeMounts"]}["contract"]
    assert environment(target)["ROWVEC_CONTRACT"] == f"{mount}/contract.toml"


@each_target
def test_every_setting_is_known_and_no_secret_stands_in_the_open(target: str) -> None:
    for name, value in environment(target).items():
        if not name.startswith("ROWVEC_") or name in PLAIN_NAMES:
            continue
        section, _, key = name.removeprefix("ROWVEC_").lower().partition("__")
        assert key in fields_of(section), f"{name} is no key of the contract"
        assert value, f"{name} is empty"
    data = contract(target).model_dump()
    assert not [
        v
        for section in data.values()
        if isinstance(section, dict)
        for v in section.values()
        if isinstance(v, SecretStr)
    ]
    assert not any(kind == "Secret" for kind, _ in rendered(target))


@each_target
def test_the_example_secret_names_secrets_of_the_contract(target: str) -> None:
    secret = yaml.safe_load((K8S / "base/secret.example.yaml").read_text("utf-8"))
    kubernetes_validate.validate(secret, KUBERNETES[-1], strict=True)
    assert "data" not in secret
    for name, value in secret["stringData"].items():
        section, key = name.removeprefix("rowvec_").split("__")
        assert key in fields_of(section), name
        assert SecretStr in get_args(fields_of(section)[key].annotation), name
        assert re.fullmatch(r"<.*>", value), "a placeholder, never a value"
    (volume,) = (v for v in pod_spec(target)["volumes"] if "secret" in v)
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert volume["secret"]["defaultMode"] & 0o007 == 0
    mount = {m["name"]: m for m in worker(target)["volumeMounts"]}[volume["name"]]
    assert environment(target)["ROWVEC_SECRETS_DIR"] == mount["mountPath"]
    assert mount["readOnly"] is True


def test_the_gpu_overlay_asks_for_a_gpu() -> None:
    target = "overlays/gpu"
    assert worker(target)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod_spec(target)["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod_spec(target)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert contract(target).embedding.device == "cuda"
    assert contract("base").embedding.device != "cuda"


# --- the image ------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments); continuations joined, comments dropped."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    text = re.sub(r"<<EOF\n.*?\nEOF\n", "heredoc\n", text, flags=re.DOTALL)
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    split = (line.split(None, 1) for line in lines if line.strip())
    return [(name.upper(), arguments) for name, arguments in split]


def last_stage() -> dict[str, str]:
    found = instructions()
    start = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def test_the_image_runs_rowvec_itself_without_root() -> None:
    stage = last_stage()
    assert json.loads(stage["ENTRYPOINT"]) == ["rowvec"]
    assert json.loads(stage["CMD"]) == ["run"]
    assert stage["USER"] == f"{UID}:{UID}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "rowvec" in project["scripts"]


def test_the_image_has_a_python_that_bytewax_has() -> None:
    (version,) = (a.removeprefix("PYTHON=") for n, a in instructions() if a.startswith("PYTHON="))
    assert version in {"3.11", "3.12"}
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert set(bases) == {"python:${PYTHON}-slim", "build"}


def test_what_the_image_copies_is_in_its_context_and_nothing_else() -> None:
    copied = set()
    for name, arguments in instructions():
        if name == "COPY" and "--from=" not in arguments:
            copied |= set(shlex.split(arguments)[:-1])
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "everything out, then in by name"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == copied
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(wheel) <= copied


# --- the manual -----------------------------------------------------------------------------------


def test_the_manual_names_what_a_deployment_touches() -> None:
    manual = (K8S / "README.md").read_text("utf-8")
    names = {*PLAIN_NAMES, *environment("base"), *environment("overlays/gpu")}
    assert [n for n in sorted(names) if n.startswith("ROWVEC_") and n not in manual] == []
    for target in TARGETS:
        assert f"k8s/{target}" in manual
