"""Ports of this machine: a free one, and whether one is taken."""

from __future__ import annotations

import errno
import socket

from halops.errors import BusyError, HostError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int) -> None:
    """Raises BusyError if somebody listens on the port, HostError if the address isn't ours."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port that was just left counts as taken
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise HostError(f"port {port} is for root only", remedy="choose one above 1023: --port") from error
        except socket.gaierror as error:
            raise HostError(f"{host!r} is no address", remedy="set serving.host, or --host") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_busy(host, port) from error
            raise HostError(
                f"can't listen on {host}: {error.strerror}", remedy="set serving.host, or --host"
            ) from error


def port_busy(host: str, port: int) -> BusyError:
    """The error for a port that is taken."""
    remedy = f"end what listens there (`ss -ltnp sport = :{port}` names it), or choose another: --port"
    return BusyError(f"port {port} is in use", where=f"{host}:{port}", remedy=remedy)


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
