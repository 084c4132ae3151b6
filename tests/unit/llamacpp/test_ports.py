"""Free ports and taken ones."""

import socket

import pytest

from halops.errors import BusyError, HostError
from halops.llamacpp.ports import free_port, require_free


def test_a_free_port_is_free() -> None:
    require_free("127.0.0.1", free_port())


def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} is in use") as caught:
            require_free("127.0.0.1", port)
    assert "--port" in str(caught.value)
    require_free("127.0.0.1", port)  # and free again at once


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(HostError):
        require_free(host, 8081)
