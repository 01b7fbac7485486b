"""The web server process: one application behind two listeners, HTTPS for devices and programs, HTTP for a
browser.

`python -m fleet.stack.serve --https-port N --certificate F --key F [--http-port N]`. Both listen on loopback
only. The private certificate would make every browser warn, hence the second one. A polite stop ends the open
event streams; what else is open is cut after 3 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Iterator
from importlib import import_module

import uvicorn

from fleet.stack.ports import LOOPBACK

APPLICATION = "fleet.asgi:application"
GRACEFUL_SHUTDOWN_S = 3


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to `_serve`, which tells all listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change no signal handler."""
        yield


def _config(port: int, *, certificate: str | None = None, key: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        APPLICATION,
        host=LOOPBACK,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )


async def _serve(configs: list[uvicorn.Config]) -> None:
    """Run one listener per configuration until SIGTERM or SIGINT; a second signal cuts what is open."""
    listeners = [_Listener(config) for config in configs]

    def stop() -> None:
        import_module(APPLICATION.partition(":")[0]).end_streams()
        for listener in listeners:
            listener.force_exit = listener.should_exit
            listener.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.gather(*(listener.serve() for listener in listeners))


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m fleet.stack.serve", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--https-port", type=int, required=True)
    parser.add_argument("--certificate", required=True, help="PEM file")
    parser.add_argument("--key", required=True, help="PEM file")
    parser.add_argument("--http-port", type=int, help="also serve plain HTTP on this loopback port")
    options = parser.parse_args()
    configs = [_config(options.https_port, certificate=options.certificate, key=options.key)]
    if options.http_port:
        configs.append(_config(options.http_port))
    asyncio.run(_serve(configs))


if __name__ == "__main__":
    main()
