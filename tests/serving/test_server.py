import socket
from contextlib import closing

import pytest
import uvicorn

from srch3.errors import ConfigError
from srch3.serving.server import address_of, listen, server_for
from tests.serving.fakes import FakeSearcher


def test_a_free_port_is_found() -> None:
    with closing(listen("localhost", 0)) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert address_of(listener) in {f"http://127.0.0.1:{port}", f"http://[::1]:{port}"}


def test_an_address_of_the_newer_kind_is_written_with_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with closing(listener):
        assert address_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_port_that_is_taken_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"^port: cannot listen at 127.0.0.1, port {port} \(.+\); choose another"
        ):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"^port: expected a number from 0 to 65535; got {port}$"):
        listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^host: expected an address of this machine; got '256\.1\.1\.1'"):
        listen("256.1.1.1", 0)
    with pytest.raises(ConfigError, match=r"^port: cannot listen at 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_the_server_keeps_no_record_of_what_is_asked() -> None:
    config = server_for(FakeSearcher).config  # type: ignore[arg-type]
    assert isinstance(config, uvicorn.Config)
    assert not config.access_log
    assert config.http == "h11"
