"""How W&B records, settled once: who is logged in where, and a server that is not there."""

from __future__ import annotations

import os
import socket
import time

import pytest

from modules.training.loggers.wandb_mode import SETTLED, settled
from tests.support.wandb_server import KEY, WandbServer, client_of
from variants.errors import UserError


def test_nobody_who_is_not_logged_in_goes_online(tmp_path):
    with client_of({}, tmp_path):
        assert settled("auto") == "offline"


def test_a_self_hosted_server_and_its_entry_in_the_netrc_file(tmp_path):
    """With a port, as `wandb login` writes it; an entry for another server says nothing."""
    with WandbServer() as server, client_of({"WANDB_BASE_URL": server.url}, tmp_path):
        assert settled("auto") == "offline"
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {server.url.partition('//')[2]}\n login user\n password {KEY}\n")
    netrc.chmod(0o600)
    with client_of({"WANDB_BASE_URL": "http://127.0.0.1:9"}, tmp_path):
        assert settled("auto") == "offline"
    with WandbServer() as server:
        netrc.write_text(f"machine {server.url.partition('//')[2]}\n login user\n password {KEY}\n")
        with client_of({"WANDB_BASE_URL": server.url}, tmp_path):
            assert settled("auto") == "online"


@pytest.mark.parametrize(
    ("variables", "wish", "expected"),
    [
        ({"WANDB_MODE": "disabled"}, "auto", "off"),
        ({"WANDB_MODE": "dryrun"}, "auto", "offline"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "auto", "offline"),
        ({"WANDB_MODE": "disabled"}, "offline", "offline"),
        ({"WANDB_API_KEY": KEY}, "off", "off"),
    ],
)
def test_wishes_and_variables(variables, wish, expected, tmp_path):
    with client_of(variables, tmp_path):
        assert settled(wish) == expected


@pytest.mark.parametrize("variables", [{"WANDB_MODE": "onlin"}, {"WANDB_BASE_URL": "nonsense"}])
def test_a_variable_that_wandb_refuses_is_one_line(variables, tmp_path):
    with client_of(variables, tmp_path), pytest.raises(UserError, match="(mode: Input should|base_url: Input should)"):
        settled("auto")


def test_wandb_disabled_is_off(tmp_path):
    (tmp_path / "settings").write_text("[default]\nmode = disabled\n")
    with client_of({"WANDB_DIR": str(tmp_path)}, tmp_path):
        assert settled("auto") == "off"


def test_a_server_that_is_not_there_is_asked_once_for_all_workers(tmp_path, capsys, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # connections are refused: nobody listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with client_of({"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}, tmp_path):
            begin = time.perf_counter()
            assert settled("online") == "offline" and time.perf_counter() - begin < 10
            assert f"W&B: {url} does not answer" in capsys.readouterr().err
            told = os.environ[SETTLED]
            assert settled("online") == "offline" and not capsys.readouterr().err
            monkeypatch.setenv(SETTLED, told.replace(socket.gethostname(), "another-machine"))
            assert settled("online") == "offline"  # asked anew: a job may have another network
            assert "does not answer" in capsys.readouterr().err
