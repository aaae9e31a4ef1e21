"""Settings, paths and the home's lock: strict where a slip would betray somebody."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2pnode import config, homelock, paths
from p2pnode.ambient import SystemAmbient
from p2pnode.config import Proxy
from p2pnode.failures import CommandError, Exit
from protocol.invite import Address


def test_what_init_draws_comes_back(tmp_path: Path) -> None:
    for profile in config.PROFILES:
        for proxy in (None, Proxy("127.0.0.1", 9050), Proxy("2001:db8::1", 1080)):
            stored = config.drawn(profile, SystemAmbient(), proxy=proxy)
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
        "proxy = 1",
        "proxy = []",
        'proxy = "off"',
        'proxy = "localhost:9050"',
        'porxy = "127.0.0.1:9050"',
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


# A proxy


def test_a_file_of_a_version_without_proxies_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('profile = "home"\nlan = "off"\nlisten = []\nlog = true\n')
    assert config.read(str(tmp_path)).proxy is None


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("127.0.0.1:9050", Proxy("127.0.0.1", 9050)),
        ("socks5://127.0.0.1:9050", Proxy("127.0.0.1", 9050)),
        ("socks5h://[::1]:9050", Proxy("::1", 9050)),
        ("[2001:DB8::1]:1080", Proxy("2001:db8::1", 1080)),
    ],
)
def test_a_proxy_is_an_address_and_a_port(text: str, proxy: Proxy) -> None:
    assert config.proxy(text) == proxy
    assert config.proxy(str(proxy)) == proxy


NO_PROXIES = ["", "off", "9050", "localhost:9050", "proxy.example:1080", "127.0.0.1", "127.0.0.1:0", "127.1:9050"]
NO_PROXIES += ["0.0.0.0:9050", "[::]:9050", "[fe80::1%eth0]:9050", "http://127.0.0.1:9050", "ana:secret@127.0.0.1:9050"]


@pytest.mark.parametrize("text", NO_PROXIES)
def test_what_would_have_to_be_looked_up_or_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"proxy\.malformed") as caught:
        config.proxy(text)
    assert caught.value.code == Exit.REFUSED


def test_behind_a_proxy_the_lan_is_off_whatever_else_is_said(tmp_path: Path) -> None:
    home, socket = str(tmp_path), str(tmp_path / "s")
    config.write(home, replace(config.drawn("home", SystemAmbient()), lan="announce"))
    for settings in (
        config.resolve(home, socket, proxy="127.0.0.1:9050"),
        config.resolve(home, socket, proxy="127.0.0.1:9050", lan="announce"),
    ):
        assert (settings.lan, settings.listen, settings.proxy) == ("off", (), Proxy("127.0.0.1", 9050))
    config.write(home, config.drawn("home", SystemAmbient(), proxy=Proxy("::1", 9050)))
    assert config.resolve(home, socket, lan="listen").lan == "off"
    direct = config.resolve(home, socket, proxy="off")
    assert (direct.lan, direct.proxy, direct.listen[0].host) == ("listen", None, "lan")


def test_behind_a_proxy_only_loopback_is_listened_on(tmp_path: Path) -> None:
    home, socket = str(tmp_path), str(tmp_path / "s")
    config.write(home, config.drawn("home", SystemAmbient(), proxy=Proxy("127.0.0.1", 9050)))
    for text in ("127.0.0.1:4000", "127.9.9.9:0", "[::1]:4000"):
        assert config.resolve(home, socket, listen=[text]).listen == (config.address(text),)
    assert config.resolve(home, socket, listen=["off"]).listen == ()
    for text in ("lan:4000", "0.0.0.0:4000", "[::]:0", "192.168.1.5:4000", "localhost:4000", "127.1:4000", "a.onion:1"):
        with pytest.raises(CommandError, match=r"proxy\.listen") as caught:
            config.resolve(home, socket, listen=["127.0.0.1:4000", text])
        assert text in caught.value.message
        assert config.resolve(home, socket, listen=[text], proxy="off").listen == (config.address(text),)


def test_what_a_person_wrote_into_the_file_is_not_left_out_in_silence(tmp_path: Path) -> None:
    stored = replace(config.drawn("home", SystemAmbient()), listen=(Address("192.168.1.5", 4000),))
    config.write(str(tmp_path), stored)
    with pytest.raises(CommandError, match=r"proxy\.listen"):
        config.resolve(str(tmp_path), str(tmp_path / "s"), proxy="127.0.0.1:9050")


# Addresses

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
