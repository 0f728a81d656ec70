"""The child process behind `ConnectWorker`: Kafka Connect's standalone worker in a JVM, no REST.

Run as `python -m flows.embedded.connect_worker CONFIG.json`. Connect's own main class starts a REST
server, which cannot start here (the jars contain two versions of jetty) and would open a port. So this
module creates the worker and its herder itself. Whenever the connectors' status changes, it replaces a
status file.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.05

_LOG4J = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{HH:mm:ss.SSS} %-5p %c{1} - %m%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
logger.plugins.name=org.apache.kafka.connect.runtime.isolation
logger.plugins.level=WARN
"""


def main(config_file: Path) -> None:
    """Runs the connectors of the configuration until SIGTERM, then stores their offsets and exits.

    The configuration's keys: `java` and `jars` (folders), `java_options`, `worker` and `connectors`
    (Kafka Connect's own settings), `status_file`.
    """
    stop = threading.Event()
    # Before the JVM starts, so that an early SIGTERM is handled; with -Xrs the JVM keeps the handlers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    config = json.loads(config_file.read_text(encoding="utf-8"))
    directory = config_file.parent
    log4j = directory / "log4j2.properties"
    log4j.write_text(_LOG4J, encoding="utf-8")

    import jpype

    jpype.startJVM(
        str(Path(config["java"], "lib", "server", "libjvm.so")),
        "-Xrs",
        "-XX:-UsePerfData",  # its file in /tmp would outlive a kill -9
        # With -Xrs, the JVM opens a socket in /tmp for debuggers at once, which outlives it.
        "-XX:+DisableAttachMechanism",
        "--enable-native-access=ALL-UNNAMED",
        f"-Djava.io.tmpdir={directory}",
        f"-Dlog4j2.configurationFile={log4j}",
        *config["java_options"],
        classpath=[str(jar) for jar in Path(config["jars"]).glob("*.jar")],
        convertStrings=False,
    )
    herder = _herder(config["worker"])
    status = _StatusFile(Path(config["status_file"]))
    failures: dict[str, str] = {}
    pending = {name: _create(herder, name, c) for name, c in config["connectors"].items()}
    while not stop.wait(_POLL_SECONDS):
        for name in [name for name, callback in pending.items() if callback.isDone()]:
            try:
                pending.pop(name).get()
            except jpype.JException as error:
                failures[name] = str(error.getCause().getMessage())  # in an ExecutionException
        status.write({name: _state(herder, name, failures) for name in config["connectors"]})
    herder.stop()
    # Everything is stored and closed; the JVM's idle thread pools would only delay the exit.
    os._exit(0)


class _StatusFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = ""

    def write(self, states: Mapping[str, Any]) -> None:
        text = json.dumps(states)
        if text != self._last:
            new = self._path.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.replace(self._path)
            self._last = text


def _herder(settings: Mapping[str, str]) -> Any:
    from jpype import JClass

    runtime = "org.apache.kafka.connect.runtime"
    config = _java_map(settings)
    plugins = JClass(f"{runtime}.isolation.Plugins")(config)
    plugins.compareAndSwapWithDelegatingLoader()
    standalone = JClass(f"{runtime}.standalone.StandaloneConfig")(config)
    converter = JClass("org.apache.kafka.connect.json.JsonConverter")()
    converter.configure(_java_map({"schemas.enable": "false"}), True)
    offsets = JClass("org.apache.kafka.connect.storage.FileOffsetBackingStore")(converter)
    offsets.configure(standalone)
    policy = JClass(
        "org.apache.kafka.connect.connector.policy.AllConnectorClientConfigOverridePolicy"
    )()
    policy.configure(_java_map({}))
    clock = JClass("org.apache.kafka.common.utils.Time").SYSTEM
    worker = JClass(f"{runtime}.Worker")("embedded", clock, plugins, standalone, offsets, policy)
    herder = JClass(f"{runtime}.standalone.StandaloneHerder")(worker, "embedded", policy)
    herder.start()
    herder.ready()
    return herder


def _create(herder: Any, name: str, settings: Mapping[str, str]) -> Any:
    from jpype import JClass

    callback = JClass("org.apache.kafka.connect.util.FutureCallback")()
    herder.putConnectorConfig(name, _java_map({"name": name, **settings}), True, callback)
    return callback


def _state(herder: Any, name: str, failures: Mapping[str, str]) -> dict[str, Any]:
    from jpype import JException

    if name in failures:
        return {"state": "FAILED", "tasks": [], "trace": failures[name]}
    try:
        status = herder.connectorStatus(name)
    except JException:  # not known to the herder yet
        return {"state": "STARTING", "tasks": [], "trace": ""}
    parts = [status.connector(), *status.tasks()]
    return {
        "state": str(parts[0].state()),
        "tasks": [str(task.state()) for task in parts[1:]],
        "trace": "\n".join(str(part.trace()) for part in parts if part.trace() is not None),
    }


def _java_map(settings: Mapping[str, str]) -> Any:
    from jpype import JClass

    result = JClass("java.util.HashMap")()
    for key, value in settings.items():
        result.put(key, value)
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1]))
