"""A Milvus Lite server on loopback, so that several processes can share one directory."""

import sys
from pathlib import Path

from flows.embedded.process import Child, accepts, free_ports

_START_SECONDS = 30.0


class MilvusLiteServer:
    """Milvus Lite behind its gRPC server, with one worker: it loses rows of concurrent writers.

    Args:
        directory: For data and log; created if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._port = free_ports(1)[0]
        self._child = Child(
            "milvus-lite",
            [
                sys.executable,
                *("-c", "import sys; from milvus_lite.cmdline import main; sys.exit(main())"),
                *("server", "--data-dir", self._directory / "data", "--max-workers", "1"),
                # By default it would listen on every address of the machine.
                *("--host", "127.0.0.1", "--port", str(self._port)),
            ],
            directory=self._directory,
        )

    @property
    def uri(self) -> str:
        """The address for `MilvusClient`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            FatalError: It did not start; the message quotes its log.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._child.start()
            self._child.wait_until(lambda: accepts(self._port), _START_SECONDS)
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        """End the server; all acknowledged writes are on disk."""
        self._child.stop()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        self._child.kill()
