"""A real Milvus 2.3.5 server from the package `milvus`, for tests."""

import json
import lzma
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from flows.embedded.packages import import_path, package_file
from flows.embedded.process import Child, free_ports

_START_SECONDS = 120.0

_PROXY_PORT, _METRICS_PORT = 19530, 9091  # fixed: its network namespace has no other program

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")


class MilvusServer:
    """Milvus standalone (with embedded etcd and rocksmq) on a random loopback port.

    Milvus binds nine ports on all addresses, whatever its configuration says, and has no password. So
    it runs in a network namespace of its own, and a relay exposes two of its ports on 127.0.0.1 (see
    `flows.embedded.isolated`). Needs Linux x86_64 and user namespaces; if these are forbidden, as in
    some containers, `start` fails rather than open ports to the network.

    Not for crash tests: after kill -9 under load, this version does not always start again.

    Args:
        directory: For configuration, data and logs; created if missing.
        binaries: Folder to unpack the server into (250 MB, 3 s), which several directories can share;
            inside `directory` by default.
        settings: Values of `milvus.yaml`, by the last part of their keys.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] = {},
    ) -> None:
        self._settings = settings
        self._directory = directory.absolute()
        self._binaries = (binaries or directory / "bin").absolute()
        self._package_data = package_file("milvus", "data", extra="dev")
        self._port, self._metrics_port = free_ports(2)
        specification = self._directory / "isolated.json"
        self._specification = specification
        self._child = Child(
            "milvus",
            [sys.executable, "-m", "flows.embedded.isolated", specification],
            directory=self._directory,
            env={"PYTHONPATH": import_path()},
            stop_seconds=15.0,
        )

    @property
    def uri(self) -> str:
        """The address for `MilvusClient`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts the server and waits until all its components are healthy.

        This takes 3 s in a new directory, and up to 10 s in a used one.

        Raises:
            FatalError: It did not start; the message quotes its log.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._unpack()
        self._configure()
        try:
            self._child.start()
            self._child.wait_until(self._healthy, _START_SECONDS)
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        """Ends the server, if it is running."""
        self._child.stop()

    def kill(self) -> None:
        """Ends the server with SIGKILL."""
        self._child.kill()

    def _healthy(self) -> bool:
        # Not urllib, which would use the proxy in http_proxy.
        with closing(HTTPConnection("127.0.0.1", self._metrics_port, timeout=5)) as connection:
            try:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
            except (OSError, HTTPException):
                return False

    def _unpack(self) -> None:
        self._binaries.mkdir(mode=0o700, parents=True, exist_ok=True)

        def unpack(packed: Path) -> None:
            target = self._binaries / packed.stem
            if not target.exists():
                new = target.with_name(f"{target.name}.new")
                new.write_bytes(lzma.decompress(packed.read_bytes()))
                new.chmod(0o700)
                new.replace(target)

        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(unpack, sorted(self._package_data.glob("bin/*.lzma"))))

    def _configure(self) -> None:
        data, logs, configs = (self._directory / name for name in ("data", "logs", "configs"))
        for directory in (data, logs, configs):
            directory.mkdir(exist_ok=True)
        paths = {
            "etcd_data_dir": data / "etcd",
            "etcd_log_path": logs / "etcd.log",
            "local_storage_dir": data,
            "rocksmq_data_dir": data / "rocksmq",
            "system_log_path": logs,
        }

        def value(match: re.Match[str]) -> str:  # "name(type): default", both but the name optional
            name, _, default = match[1].partition(":")
            return str(paths.get(name.split("(")[0].strip(), default.strip()))

        template = (self._package_data / "config.yaml.template").read_text(encoding="utf-8")
        text = _PLACEHOLDER.sub(value, template)
        for key, setting in {
            "timeTickInterval": "20",  # ms; a Strong read waits for the next tick, by default 200
            "ip": "127.0.0.1",  # its namespace has no other address to announce
            "gracefulStopTimeout": "3",  # seconds; by default it would hang for half an hour
            **self._settings,
        }.items():
            text = re.sub(rf"^(\s+{key}:).*$", rf"\1 {setting}", text, flags=re.MULTILINE)
        (configs / "milvus.yaml").write_text(text, encoding="utf-8")
        glog = (self._package_data / "glog.conf").read_text(encoding="utf-8")
        (configs / "glog.conf").write_text(glog, encoding="utf-8")
        specification = {
            "argv": [str(self._binaries / "milvus"), "run", "standalone"],
            "env": {
                "HOME": str(self._directory),
                "LD_LIBRARY_PATH": str(self._binaries),
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": str(_METRICS_PORT),
            },
            # These paths cannot be configured; without this, all servers of the machine share them.
            "private": {
                "/run": str(self._directory / "run"),
                "/tmp/milvus": str(self._directory / "tmp"),  # noqa: S108  # nothing is put there
            },
            "relay": [[self._port, _PROXY_PORT], [self._metrics_port, _METRICS_PORT]],
        }
        self._specification.write_text(json.dumps(specification), encoding="utf-8")
