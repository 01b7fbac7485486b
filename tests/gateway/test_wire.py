"""The TLS stream of the lean source, against a server that behaves and ones that do not."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet.gateway.wire import Wire
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK
from fleet.stack.tls import TlsFiles, ensure_tls

STEP_S = 20.0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return ensure_tls(RunDir(tmp_path_factory.mktemp("tls")).ensure())


@contextmanager
def serving(tls: TlsFiles | None, work: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that takes one connection, with TLS unless `tls` is None, and hands it to `work`."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            taken, _ = listener.accept()
            if tls is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(tls.certificate, tls.key)
                try:
                    taken = context.wrap_socket(taken, server_side=True)
                except OSError:
                    return
            with taken:
                work(taken)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=STEP_S)


def connect(port: int, tls: TlsFiles, *, timeout_s: float = STEP_S) -> Wire:
    return Wire(LOOPBACK, port, ssl.create_default_context(cafile=str(tls.ca)), timeout_s=timeout_s)


def test_bytes_come_whole_and_in_order_whatever_the_records(tls: TlsFiles) -> None:
    sent = b"".join(n.to_bytes(4, "big") for n in range(50_000))
    sizes = [1, 3, 200, 16_384, 40_000]

    def work(peer: socket.socket) -> None:
        at = 0
        while at < len(sent):
            size = sizes[at % len(sizes)]
            peer.sendall(sent[at : at + size])
            at += size
        assert peer.recv(1) == b"!"

    with serving(tls, work) as port:
        wire, found = connect(port, tls), b""
        while len(found) < len(sent):
            found += wire.receive(STEP_S)
        assert found == sent
        wire.send(b"!")
        wire.close()


def test_what_is_sent_arrives_whole(tls: TlsFiles) -> None:
    sent, found = bytes(range(256)) * 400, bytearray()

    def work(peer: socket.socket) -> None:
        peer.sendall(bytes(100_000))  # never read: closing at once would reset the connection
        while len(found) < len(sent):
            found.extend(peer.recv(65_536))

    with serving(tls, work) as port:
        wire = connect(port, tls)
        wire.receive(STEP_S)
        wire.send(sent)
        wire.finish(STEP_S)
        wire.close()
    assert found == sent


def test_nothing_comes_within_its_time(tls: TlsFiles) -> None:
    done = threading.Event()
    with serving(tls, lambda _peer: done.wait(STEP_S) and None) as port:
        wire = connect(port, tls)
        assert wire.receive(0.05) == b""
        assert wire.receive(0.0) == b""
        done.set()
        wire.close()


def test_the_end_of_the_stream_is_an_error_once_all_was_read(tls: TlsFiles) -> None:
    with serving(tls, lambda peer: peer.sendall(b"last")) as port:
        wire, found = connect(port, tls), b""
        while found != b"last":
            found += wire.receive(STEP_S)
        with pytest.raises(OSError, match="ended"):
            list(iter(lambda: wire.receive(STEP_S), None))
        wire.close()


def test_a_server_that_is_silent_or_no_tls_or_not_ours_is_refused(tls: TlsFiles, tmp_path: Path) -> None:
    done = threading.Event()
    with serving(None, lambda _peer: done.wait(STEP_S) and None) as port:
        with pytest.raises(OSError, match="handshake"):
            connect(port, tls, timeout_s=0.2)
        done.set()
    text = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with serving(None, lambda peer: peer.sendall(text)) as port, pytest.raises(ssl.SSLError):
        connect(port, tls)
    other = ensure_tls(RunDir(tmp_path).ensure())
    with serving(tls, lambda _peer: None) as port, pytest.raises(ssl.SSLCertVerificationError):
        connect(port, other)
