"""`run`, `start` and `stop` with real daemons: one per home, reached by its owner, no trace of the secret anywhere."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2pnode import homelock
from p2pnode.failures import Exit

pytestmark = pytest.mark.system

SECRET = "una frase secreta"
QUIET = ("--listen", "127.0.0.1:0", "--lan", "off")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def p2pnode(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pnode", *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def test_a_daemon_is_started_once_serves_and_stops(home: Path) -> None:
    assert p2pnode("init", "--passphrase-file", "-", given=SECRET + "\n").returncode == Exit.DONE
    try:
        started = p2pnode("start", *QUIET, "--passphrase-file", "-", given=SECRET + "\n")
        assert (started.returncode, started.stdout) == (Exit.DONE, ""), started.stderr
        daemon = homelock.holder(str(home))
        assert daemon is not None
        for place in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{daemon}/{place}").read_bytes()
        assert "Max core file size        0 " in Path(f"/proc/{daemon}/limits").read_text()
        assert p2pnode("status", "--json").returncode == Exit.DONE
        assert "Already running" in p2pnode("start").stderr
        second = p2pnode("run", *QUIET, "--passphrase-file", "-", given=SECRET + "\n")
        assert (second.returncode, "already running" in second.stderr) == (Exit.FAILED, True)
        assert p2pnode("status").returncode == Exit.DONE
    finally:
        stopped = p2pnode("stop")
    assert stopped.returncode == Exit.DONE
    assert homelock.holder(str(home)) is None
    assert not (home / "control.sock").exists()
    assert p2pnode("stop").returncode == Exit.NO_DAEMON
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.iterdir())


def test_a_wrong_passphrase_is_code_6_in_front_and_behind(home: Path) -> None:
    p2pnode("init", "--passphrase-file", "-", given=SECRET + "\n")
    for command in ("run", "start"):
        refused = p2pnode(command, *QUIET, "--passphrase-file", "-", given="otra\n")
        assert (refused.returncode, refused.stdout) == (Exit.LOCKED, "")
        assert refused.stderr == "p2pnode: wrong passphrase.\n"
        assert p2pnode(command, *QUIET).returncode == Exit.WRONG_USE  # nobody to ask
    assert p2pnode("run", "--home", str(home / "absent")).returncode == Exit.FAILED
    assert homelock.holder(str(home)) is None


def test_a_killed_daemon_is_replaced_and_its_socket_too(home: Path) -> None:
    p2pnode("init", "--no-passphrase")
    assert p2pnode("start", *QUIET).returncode == Exit.DONE
    daemon = homelock.holder(str(home))
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    while homelock.holder(str(home)) is not None:
        time.sleep(0.01)
    assert p2pnode("status").returncode == Exit.NO_DAEMON
    try:
        assert p2pnode("start", *QUIET).returncode == Exit.DONE
        assert p2pnode("status").returncode == Exit.DONE
    finally:
        p2pnode("stop")


def test_a_port_that_somebody_has_is_said_and_nothing_stays_behind(home: Path) -> None:
    import socket

    p2pnode("init", "--no-passphrase")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = p2pnode("start", "--lan", "off", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert refused.returncode == Exit.FAILED
    assert "in use" in refused.stderr
    assert homelock.holder(str(home)) is None


def test_a_daemon_started_behind_a_proxy_stays_off_the_lan_and_waits_for_it(home: Path) -> None:
    p2pnode("init", "--no-passphrase")
    refused = p2pnode("start", "--proxy", "127.0.0.1:9", "--listen", "lan:4000")
    assert (refused.returncode, "leave out lan:4000" in refused.stderr) == (Exit.REFUSED, True)
    try:
        assert p2pnode("start", "--proxy", "socks5://127.0.0.1:9", "--lan", "announce").returncode == Exit.DONE
        node = json.loads(p2pnode("status", "--json").stdout)["node"]
        assert (node["proxy"], node["lan"], node["listen"]) == ("127.0.0.1:9", "off", [])
        assert re.search("proxy +127.0.0.1:9\n", p2pnode("status").stdout)
        p2pnode("space", "create", "vecinos")
        p2pnode("peer", "add", "node.example:4000")
        for _ in range(100):
            peers = p2pnode("peer", "list").stdout
            if "proxy down" in peers:
                break
        assert "proxy down" in peers
        for proxy in ("off", "127.0.0.1:9"):  # nothing would change
            unchanged = p2pnode("start", "--proxy", proxy)
            assert (unchanged.returncode, "p2pnode stop" in unchanged.stderr) == (Exit.FAILED, True)
    finally:
        p2pnode("stop")


def test_a_home_whose_path_is_longer_than_the_kernel_allows_works_all_the_same(home: Path) -> None:
    deep = home / ("d" * 120) / ("e" * 120)
    deep.parent.mkdir(parents=True)
    assert p2pnode("init", "--no-passphrase", "--home", str(deep)).returncode == Exit.DONE
    try:
        assert p2pnode("start", *QUIET, "--home", str(deep)).returncode == Exit.DONE
        assert p2pnode("status", "--home", str(deep)).returncode == Exit.DONE
    finally:
        assert p2pnode("stop", "--home", str(deep)).returncode == Exit.DONE


def test_a_wipe_beside_a_running_daemon_ends_it_within_two_seconds(home: Path) -> None:
    p2pnode("init", "--no-passphrase")
    assert p2pnode("start", *QUIET).returncode == Exit.DONE
    begun = time.monotonic()
    assert p2pnode("wipe", "--yes").returncode == Exit.DONE
    assert time.monotonic() - begun < 2
    assert not home.exists()


def test_systemd_hears_when_the_daemon_is_ready(home: Path, tmp_path: Path) -> None:
    import socket

    p2pnode("init", "--no-passphrase")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [sys.executable, "-m", "p2pnode", "run", *QUIET]
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as daemon:
            assert systemd.recv(100) == b"READY=1"
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == Exit.DONE
            assert daemon.stderr is not None
            assert daemon.stderr.read() == "Running. Ctrl-C stops.\n"
