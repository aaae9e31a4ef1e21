"""Settings, paths and the home's lock: strict where a slip would betray somebody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode import config, homelock, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.failures import CommandError, Exit
from protocol.invite import Address


def test_what_init_draws_comes_back(tmp_path: Path) -> None:
    for profile in config.PROFILES:
        stored = config.drawn(profile, SystemAmbient())
        config.write(str(tmp_path), stored)
        assert config.read(str(tmp_path)) == stored


def test_field_listens_nowhere_and_looks_for_nobody() -> None:
    stored = config.drawn("field", SystemAmbient())
    assert (stored.lan, stored.listen, stored.log) == ("off", (), False)


def test_home_listens_on_the_lan_at_a_port_of_its_own() -> None:
    drawn = {config.drawn("home", SystemAmbient()).listen for _ in range(20)}
    assert len(drawn) > 10
    for (address,) in drawn:
        assert address.host == "lan"
        assert config.PORT_FIRST <= address.port <= config.PORT_LAST


def test_the_command_line_stands_above_the_file(tmp_path: Path) -> None:
    config.write(str(tmp_path), config.drawn("home", SystemAmbient()))
    socket = str(tmp_path / "s")
    kept = config.resolve(str(tmp_path), socket)
    given = config.resolve(str(tmp_path), socket, listen=["127.0.0.1:0", "[::1]:4000"], lan="off")
    assert kept.lan == "listen"
    assert given.lan == "off"
    assert given.listen == (Address("127.0.0.1", 0), Address("::1", 4000))
    assert config.resolve(str(tmp_path), socket, listen=["off"]).listen == ()
    assert given.store == tmp_path / "store.db"


@pytest.mark.parametrize(
    "line",
    [
        'lna = "off"',
        'lan = "of"',
        'lan = "off"\nlan = "off"',
        "lan = 1",
        'profile = "x"',
        'listen = "lan:1"',
        "listen = [1]",
        'listen = ["lan"]',
        "log = 1",
        "[lan]",
        "\0",
        "x = " + "[" * 5000,
    ],
)
def test_a_slip_in_the_file_is_refused_and_never_ignored(tmp_path: Path, line: str) -> None:
    good = {"profile": '"home"', "lan": '"off"', "listen": "[]", "log": "true"}
    key = line.partition(" ")[0]
    others = "".join(f"{name} = {value}\n" for name, value in good.items() if name != key)
    (tmp_path / "settings.toml").write_text(others + line + "\n")
    with pytest.raises(CommandError) as caught:
        config.read(str(tmp_path))
    assert caught.value.code == Exit.REFUSED


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('profile = "home"\nlisten = []\nlog = true\n')
    with pytest.raises(CommandError) as caught:
        config.read(str(tmp_path))
    assert "the setting lan is missing" in caught.value.message


NO_ADDRESSES = ["", ":1", "h", "h:", "h:x", "h:65536", "h:-1", "h:１", "::1:5", "[::1]", "a b:1", '"h":1']


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        config.address(text)


def test_the_socket_of_the_default_home_dies_with_the_login() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/1000", "XDG_DATA_HOME": "/home/ana/.local/share"}
    home = paths.home_of(None, environ)
    assert home == "/home/ana/.local/share/p2pnode"
    assert paths.socket_of(home, environ) == "/run/user/1000/p2pnode/control.sock"
    assert paths.home_of(None, {**environ, "P2PNODE_HOME": "/x"}) == "/x"
    assert paths.home_of("/y", {**environ, "P2PNODE_HOME": "/x"}) == "/y"
    assert paths.socket_of("/y", environ) == "/y/control.sock"
    assert paths.socket_of(home, {**environ, "XDG_RUNTIME_DIR": "relative"}) == f"{home}/control.sock"


# The lock


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    held = homelock.take(str(tmp_path))
    with pytest.raises(CommandError, match=r"daemon\.second"):
        homelock.take(str(tmp_path), patience_seconds=0)
    assert homelock.holder(str(tmp_path)) == os.getpid()
    os.close(held)
    assert homelock.holder(str(tmp_path)) is None
    os.close(homelock.take(str(tmp_path)))


def test_a_killed_holder_leaves_the_home_free(tmp_path: Path) -> None:
    program = "import sys, time; from p2pnode import homelock; homelock.take(sys.argv[1])\n"
    program += "print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert homelock.holder(str(tmp_path)) == process.pid
        assert homelock.end_holder(str(tmp_path), signal.SIGKILL, patience_seconds=5)
    os.close(homelock.take(str(tmp_path)))
