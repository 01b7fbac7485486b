"""A private Redis of the run folder: queue, cache and live hints.

It keeps nothing on disk: losing it loses no truth.
"""

from __future__ import annotations

import socket

from fleet.stack.children import ChildSpec, find_binary
from fleet.stack.paths import RunDir, write_private
from fleet.stack.ports import LOOPBACK


def url(run: RunDir, port: int, *, database: int = 0) -> str:
    """`REDIS_URL` of the private server."""
    return f"redis://:{run.secret('redis')}@{LOOPBACK}:{port}/{database}"


def spec(run: RunDir, port: int) -> ChildSpec:
    """Write the configuration (the password is in no command line) and describe the server process.

    Raises StackError `binary_missing` when redis-server is not installed.
    """
    password = run.secret("redis")
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{run.redis}"',
        "daemonize no",
        "protected-mode yes",
        'save ""',
        "appendonly no",
        "maxmemory 512mb",
        "maxmemory-policy noeviction",
        "tcp-backlog 128",
    )
    config = run.redis / "redis.conf"
    write_private(config, "\n".join(lines) + "\n")
    return ChildSpec(
        name="redis",
        argv=(find_binary("redis-server", package="redis-server"), str(config)),
        is_restarted=True,
        ready=lambda _child: _answers_ping(port, password),
        tier=0,
    )


def _answers_ping(port: int, password: str) -> bool:
    """True when the server accepts our password and answers PING (plain RESP, so no client library is
    imported).
    """
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"
