"""Blind relay: who has its memory, its disk, its log and every byte of its traffic finds nothing that anybody wrote.

Four people live a day at one relay: they join by it, file, append, read, and meet through it. Then everything that the
relay has is searched for more than fifty things of theirs, in every form in which they may lie about. In the same
places the same search finds what has to be there, so that one that finds nothing at all shows.
"""

import base64
import json
import os
import random
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from system.daemons import Daemon, invited, met, people, until
from system.relay import Relay
from system.relay_process import RelayProcess

from p2pnode import keystore, paths
from p2pnode.relay import daemon
from p2pnode.store.file import open_reader
from p2pnode.store.spaces import SpaceRow, spaces
from protocol import invite, keys
from protocol.mailbox import topic_of, week_of, welcome_topic
from protocol.noise import KeyPair

pytestmark = pytest.mark.system

STEM = "qzxjkvwy"  # in every word below; occurs nowhere else on earth
WORDS = ("pen name", "title", "text", "tag", "place name")
PEOPLE = ("ana", "beto", "carla", "dora")
SHOUT = "zvkqwxyj control"
GEOHASH = "0123456789bcdefghjkmnpqrstuvwxyz"
WRITABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw", re.MULTILINE)  # in a process's list of its mappings
ZEROS = bytes(64)
LETTERS = re.compile(rb"[A-Za-z0-9+/_-]{8,}")  # hex, base64 and base32 of anything that is searched for


class Haystack:
    """Bytes in which much is searched for; what consists of letters, in the stretches of letters alone."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._letters = b"\n".join(LETTERS.findall(data))

    def holds(self, forms: set[bytes]) -> bool:
        """Whether one of them is in it."""
        return any(form in (self._letters if LETTERS.fullmatch(form) else self.data) for form in forms)


@dataclass(frozen=True, slots=True)
class Markers:
    """What nobody but members may ever see: `words` all hold the stem, the rest stands for itself."""

    words: Mapping[str, str]
    texts: Mapping[str, str]
    secrets: Mapping[str, bytes]

    def __len__(self) -> int:
        return len(self.words) + len(self.texts) + len(self.secrets)

    def found(self, data: bytes) -> list[str]:
        """The names of those that occur in it, in whatever form."""
        haystack = Haystack(data)
        names = [name for name, text in self.texts.items() if haystack.holds(written(text))]
        names += [name for name, secret in self.secrets.items() if haystack.holds(encoded(secret))]
        if self.words and haystack.holds(written(STEM)):
            names += [name for name, word in self.words.items() if haystack.holds(written(word))] or [
                "a piece of a word"
            ]
        return names


def written(text: str) -> set[bytes]:
    """A text in every form in which it may lie about."""
    spelt = {text, text.upper()}
    return {form for one in spelt for code in ("utf-8", "utf-16-le", "utf-16-be") for form in encoded(one.encode(code))}


def encoded(data: bytes) -> set[bytes]:
    """Bytes as they are, in hex, base64 and base32; what comes before decides where their letters begin."""
    found = {data, data.hex().encode(), data.hex().upper().encode()}
    for group, bits, encode in ((3, 6, base64.b64encode), (3, 6, base64.urlsafe_b64encode), (5, 5, base64.b32encode)):
        for lead in range(group):
            letters = encode(bytes(lead) + data)[-(-lead * 8 // bits) : (lead + len(data)) * 8 // bits]
            found |= {letters, letters.lower()} if encode is base64.b32encode else {letters}
    return found


def forms_of(data: bytes) -> list[bytes]:
    """What a program might make of it."""
    hexed, in_32 = data.hex().encode(), base64.b32encode(data)
    return [data, hexed, hexed.upper(), base64.b64encode(data), base64.urlsafe_b64encode(data), in_32, in_32.lower()]


def test_the_search_would_find_a_text_and_a_key_in_each_form_and_place() -> None:
    key = random.Random(1).randbytes(32)
    markers = Markers({"word": f"título{STEM}"}, {"cell": "9g3w81v"}, {"key": key})
    for lead in range(15):
        for spelt in (f"título{STEM}, 9g3w81v", f"TÍTULO{STEM.upper()}, 9G3W81V"):
            for code in ("utf-8", "utf-16-le", "utf-16-be"):
                data = b"x" * lead + spelt.encode(code) + b" "
                for form in forms_of(data):
                    assert markers.found(b"? " + form + b" ?") == ["cell", "word"]
        for form in forms_of(b"x" * lead + key + b"x"):
            assert markers.found(form) == ["key"]
    assert markers.found(random.Random(2).randbytes(1_000_000)) == []


@dataclass(frozen=True, slots=True)
class Day:
    """What the relay had at the end of it, and what it was not to have."""

    markers: Markers
    memory: bytes | None  # None: this user may not look
    disk: bytes
    said: bytes  # in its log and on its terminal
    traffic: bytes
    key: KeyPair  # the relay's own
    key_file: bytes
    topics: list[bytes]  # the names of the topics in which something lies: the relay has to know these


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    root = tmp_path_factory.mktemp("blind")
    chance = random.SystemRandom()
    words = {name: {what: f"{name}{what.replace(' ', '')}{STEM}" for what in WORDS} for name in PEOPLE}
    cells = {name: "9g3" + "".join(chance.choices(GEOHASH, k=4)) for name in PEOPLE}
    space_name = f"vecinos{STEM}"
    with RelayProcess(root / "relay") as relay, Relay(relay.endpoint) as wire, people(root, *PEOPLE) as nodes:
        ana, *guests = nodes
        ana.ask("space.create", name=space_name, pen=words["ana"]["pen name"])
        ana.ask("relay.add", relay=relay.at(wire.address))
        invitations = [invited(ana, by_relay=True) for _ in guests]
        for guest, invitation in zip(guests, invitations, strict=True):
            guest.ask("join", invite=invitation, name=words[guest.home.name]["pen name"], by_relay=True)
        ids = [filed(node, words[node.home.name], cells[node.home.name]) for node in nodes]
        for node in nodes:
            node.ask("sync")
        met(*nodes)
        until("some to meet there", lambda: ana.ask("sync")["peers"])
        memory = memory_of(relay)
        ids.append(filed(ana, words["ana"], cells["ana"]))
        met(*nodes)
        ana.ask("sync")
        until("it to lie there", lambda: ana.ask("relay.list")[0]["waiting"] == 0)
        shout(wire)
        if memory is not None:
            memory += memory_of(relay) or b""

        rows = [row_of(node) for node in nodes]
        read = [invite.decode(invitation) for invitation in invitations]
        relay_key = invite.parse_relay(relay.line).key
        week = week_of(time.time())
        topics = [
            topic_of(rows[0].epochs[0], relay_key, week),
            *(welcome_topic(i.join_secret, relay_key) for i in read),
        ]
        secrets = {"space": rows[0].id, "epoch secret": rows[0].epochs[0]}
        for name, row in zip(PEOPLE, rows, strict=True):
            secrets[f"{name}'s author seed"] = row.author_seed
            secrets[f"{name}'s author"] = keys.signer_public(row.author_seed)
            secrets[f"{name}'s static secret"] = row.static_secret
            secrets[f"{name}'s static"] = KeyPair.from_secret(row.static_secret).public
        for number, invitation in enumerate(read):
            secrets[f"join secret {number}"] = invitation.join_secret
            secrets[f"admission seed {number}"] = invitation.admission_seed
        secrets |= {f"id {number}": bytes.fromhex(id) for number, id in enumerate(ids)}
        secrets |= {f"private half of topic {number}": topic.secret[:32] for number, topic in enumerate(topics)}
        master = keystore.open(relay.files / paths.KEY, None)
        texts = {f"{name}'s cell": cell for name, cell in cells.items()}
        said = {f"{name}'s {what}": word for name, spoken in words.items() for what, word in spoken.items()}
        files = [path for path in relay.files.rglob("*") if path.is_file()]
        assert relay.files / paths.SHELF in files
        return Day(
            Markers({"space's name": space_name, **said}, texts, secrets),
            memory,
            b"\n".join(path.name.encode() + b"\n" + path.read_bytes() for path in files),
            b"\n".join(path.read_bytes() for path in (relay.files / paths.LOG, relay.stdout, relay.stderr)),
            b"\n".join(bytes(one.said) + b"\n" + bytes(one.answered) for one in wire.recorded),
            KeyPair.from_secret(keys.derive(master, daemon._RELAY_PURPOSE)),
            (relay.files / paths.KEY).read_bytes(),
            [topic.key for topic in topics],
        )


def filed(node: Daemon, words: Mapping[str, str], cell: str) -> str:
    """A report in which every field is used."""
    report = {
        "category": "roadblock",
        "title": f"Camión {words['title']}",
        "text": f"Está {words['text']} en la esquina. " * 50,
        "tag": [words["tag"]],
        "place": f"geohash:{cell}",
        "precision": 7,
        "place_name": words["place name"],
        "basis": "saw",
        "lang": "es",
    }
    id = str(node.ask("report.new", **report)["id"])
    assert node.ask("report.show", id=id)["place"] == cell
    return id


def memory_of(relay: RelayProcess) -> bytes | None:
    """Everything that the relay has written down in its memory; of long stretches of zeros only the ends."""
    assert relay.process is not None
    process = Path(f"/proc/{relay.process.pid}")
    found = []
    try:
        with (process / "mem").open("rb", buffering=0) as memory:
            for first, last in WRITABLE.findall((process / "maps").read_text()):
                with suppress(OSError):  # what the kernel keeps to itself
                    found.append(os.pread(memory.fileno(), int(last, 16) - int(first, 16), int(first, 16)))
    except PermissionError:
        return None
    return ZEROS.join(re.split(ZEROS + b"+", b"\n".join(found)))


def shout(wire: Relay) -> None:
    """A stranger says something that anybody can read, on the wire that is listened to."""
    host, _, port = wire.address.rpartition(":")
    with socket.create_connection((host, int(port))) as stream:
        stream.sendall(SHOUT.encode())
        until("the wire to have carried it", lambda: any(SHOUT.encode() in one.said for one in wire.recorded))


def row_of(node: Daemon) -> SpaceRow:
    database = open_reader(node.home / paths.STORE, keystore.open(node.home / paths.KEY, None))
    try:
        (row,) = spaces(database)
        return row
    finally:
        database.close()


def test_there_is_enough_to_look_for(day: Day) -> None:
    assert len(day.markers) >= 50


def test_nothing_is_found_in_its_memory_in_which_its_own_keys_are(day: Day) -> None:
    if day.memory is None:
        pytest.skip("only root may look into the memory of a process that is not dumpable")
    assert day.markers.found(day.memory) == []
    known = Markers({}, {}, {"secret": day.key.secret, "public": day.key.public, "topic": day.topics[0]})
    assert known.found(day.memory) == ["secret", "public", "topic"]


def test_nothing_is_found_on_its_disk_on_which_its_key_file_is(day: Day) -> None:
    assert day.markers.found(day.disk) == []
    wrapped = json.loads(day.key_file)
    known = Markers({}, {"format": wrapped["format"]}, {"key": bytes.fromhex(wrapped["key"])})
    assert known.found(day.disk) == ["format", "key"]
    assert len(day.disk) > 50_000, "and what it keeps"


def test_nothing_is_found_in_its_log_and_in_what_it_prints_where_its_address_is(day: Day) -> None:
    assert day.markers.found(day.said) == []
    known = Markers({}, {"event": "relay.visit_over"}, {"public": day.key.public})
    assert known.found(day.said) == ["event", "public"]
    log = [line for line in day.said.splitlines() if b"relay.visit_over" in line]
    assert not [line for line in log if b"127.0.0.1" in line]


def test_nothing_is_found_in_its_traffic_in_which_a_stranger_has_shouted(day: Day) -> None:
    assert day.markers.found(day.traffic) == []
    assert Markers({}, {"shout": SHOUT}, {}).found(day.traffic) == ["shout"]
    assert len(day.traffic) > 50_000
    names = {f"topic {number}": key for number, key in enumerate(day.topics)}
    assert Markers({}, {}, names).found(day.traffic) == [], "not even what the relay has to know"
