"""A pod's port on this machine's loopback, through the API server, as `kubectl port-forward` does it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

Dial = Callable[[], socket.socket]
BLOCK = 1 << 16


def dialer(namespace: str, pod: str, port: int) -> Dial:
    """A function that opens a connection to a pod's port. Raises ConfigError where no cluster is configured."""
    from kubernetes import client, stream

    from halops.backends.kube.connection import settings

    core = client.CoreV1Api(client.ApiClient(settings()))

    def dial() -> socket.socket:
        forward = stream.portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
        connection: socket.socket = forward.socket(port)
        connection.setblocking(True)
        return connection

    return dial


@contextlib.contextmanager
def forwarded(dial: Dial) -> Iterator[str]:
    """`http://127.0.0.1:PORT`, each connection to which is one that `dial` opens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, dial), daemon=True, name="port-forward").start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes accept


def _accept(server: socket.socket, dial: Dial) -> None:
    with contextlib.suppress(OSError):  # closed: the end
        while True:
            caller, _ = server.accept()
            threading.Thread(target=_join, args=(caller, dial), daemon=True, name="port-forward").start()


def _join(caller: socket.socket, dial: Dial) -> None:
    # whatever ends it, the caller sees a connection that ended
    with caller, contextlib.suppress(Exception), dial() as pod:
        back = threading.Thread(target=_pump, args=(pod, caller), daemon=True)
        back.start()
        _pump(caller, pod)
        back.join()


def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(BLOCK):
            target.sendall(data)
    for end in (source, target):  # one half that ends takes the other with it: HTTP asks for no more
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
