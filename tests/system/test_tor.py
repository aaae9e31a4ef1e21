"""Behind Tor: nodes that meet by an onion name, over a private Tor network, with the very files of examples/tor."""

import subprocess
import sys
from pathlib import Path

import pytest
from system import namespaces, tornet
from system.daemons import Daemon, invited, met

from p2pnode.failures import CommandError, Exit

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(namespaces.available() is not None, reason=str(namespaces.available())),
    pytest.mark.skipif(tornet.available() is not None, reason=str(tornet.available())),
]

EXAMPLES = Path(__file__).parents[2] / "examples" / "tor"
JOIN_SECONDS = 40.0  # until a new service is known to the network
SHUT_SECONDS = 6.0


def example(name: str, instead: dict[str, Path | str]) -> str:
    """A file of the examples, with some of its words replaced."""
    text = (EXAMPLES / name).read_text()
    for word, other in instead.items():
        assert word in text
        text = text.replace(word, str(other))
    return text


def service(directory: Path) -> str:
    return example("service.torrc", {"/var/lib/tor/p2pnode": directory})


def client(keys: Path, socks_port: int) -> str:
    return example("client.torrc", {"/var/lib/tor/p2pnode-keys": keys, ":9050": f":{socks_port}"})


def authorise(name: str, address: str, directory: Path) -> None:
    command = [sys.executable, EXAMPLES / "authorise.py", name, address, directory]
    subprocess.run(command, check=True)


def onion_name(directory: Path) -> str:
    return (directory / "hostname").read_text().strip()


def test_nodes_meet_by_an_onion_name_and_by_one_that_asks_who_comes(tmp_path: Path) -> None:
    ana, beto, carla = (Daemon(tmp_path / name) for name in ("ana", "beto", "carla"))
    door, guarded, hers, theirs = (tmp_path / name for name in ("door", "guarded", "hers", "theirs"))
    for directory in (guarded, guarded / "authorized_clients", hers, theirs):
        directory.mkdir(mode=0o700)
    authorise("somebody", "else.onion", guarded / "authorized_clients")
    with namespaces.bridged(1) as (machine,), tornet.network(machine, tmp_path / "net") as net:
        hosting = net.join("hosting", client(hers, 9050) + service(door) + service(guarded))
        dialling = net.join("dialling", client(theirs, 9060))
        for node in (ana, beto, carla):
            node.within, node.listen, node.proxy = machine.command(), None, "127.0.0.1:9060"
        ana.listen, ana.proxy = "127.0.0.1:17017", "127.0.0.1:9050"
        with ana, beto, carla:
            ana.ask("space.create", name="vecinos")
            with pytest.raises(CommandError, match=r"invite\.behind_proxy"):
                invited(ana)
            hosting.bootstrapped()
            dialling.bootstrapped()

            beto.ask("join", invite=invited(ana, address=[f"{onion_name(door)}:17017"]), timeout=JOIN_SECONDS)
            met(ana, beto)
            beto.ask("report.new", category="other", title="By onion")
            met(ana, beto)
            assert ana.titles() == ["By onion"]

            invitation = invited(ana, address=[f"{onion_name(guarded)}:17017"])
            with pytest.raises(CommandError) as refused:
                carla.ask("join", invite=invitation, timeout=SHUT_SECONDS)
            assert refused.value.code == Exit.TIMED_OUT
            authorise("carla", onion_name(guarded), tmp_path)
            (tmp_path / "carla.auth").rename(guarded / "authorized_clients" / "carla.auth")
            (tmp_path / "carla.auth_private").rename(theirs / "carla.auth_private")
            hosting.reload()
            dialling.reload()
            carla.ask("join", invite=invitation, timeout=JOIN_SECONDS)
            met(ana, beto, carla)
            assert carla.titles() == ["By onion"]
