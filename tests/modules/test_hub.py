"""Whether the Hub can be reached: answered, down, and a name look-up that hangs."""

import socket
import threading
import time

import pytest

from modules import hub
from modules.hub import hub_reachable
from tests.support.hub_server import HubServer


@pytest.fixture
def online(monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    hub.answers.cache_clear()
    yield lambda url: monkeypatch.setenv("HF_ENDPOINT", url)
    hub.answers.cache_clear()


def reachable_in(limit: float) -> bool:
    start = time.monotonic()
    answer = hub_reachable()
    assert time.monotonic() - start < limit
    return answer


def test_hub_that_answers(online, monkeypatch):
    with HubServer({}) as server:
        online(server.url)
        assert reachable_in(2)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not reachable_in(0.1)


def test_hub_that_is_down(online):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert not reachable_in(1)


@pytest.mark.slow
def test_name_look_up_that_hangs(online, monkeypatch):
    def hang(*_, **__):
        over.wait(30)
        raise socket.gaierror("no answer")

    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    online("http://hub.invalid")
    assert not reachable_in(5)
    over.set()
