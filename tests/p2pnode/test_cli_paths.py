"""Bundles, relays, status and explanations on the command line, against a daemon that only answers."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_daemon import FakeDaemon

from p2pnode import keystore
from p2pnode.config import LAN_HOST
from p2pnode.failures import Exit
from p2pnode.mailbox import Told
from p2pnode.methods.paths import reasons
from p2pnode.sentences import TABLE
from protocol.errors import InputRefused
from protocol.invite import Address, Relay, parse_relay
from tests.p2pnode.test_cli import NASTY, STATUS, Run, home, run, undisturbed

__all__ = ["home", "run", "undisturbed"]  # fixtures

WHERE = "203.0.113.5:7000"
KEY = str(Relay(Address("203.0.113.5", 7000), bytes(range(32)))).rpartition("/")[2]
IMPORTED = {
    "space": "5" * 64,
    "new": 3593,
    "known": 12,
    "refused": 0,
    "forked": 0,
    "unknown": 0,
    "early": 0,
    "damaged": 0,
    "whole": True,
}
PEER = {"kind": "peer", "space": "5" * 64, "address": "a:1", "state": "connected", "seen": None}
RELAY = {
    "kind": "relay",
    "space": "5" * 64,
    "address": WHERE,
    "relay": f"{WHERE}/{KEY}",
    "state": "waiting",
    "seen": "2026-11-23T10:15:00Z",
    "waiting": 0,
    "waiting_since": None,
    "refusal": None,
    "warnings": [],
    "meeting": "waiting",
}


def refusing(code: int, key: str, **fields: Any) -> Any:
    return {"error": {"code": code, "message": "x", "data": {"key": key, "fields": fields}}}


def writes(content: bytes) -> Any:
    def answer(params: dict[str, Any]) -> Any:
        os.write(params["file"], content)
        return {"entries": 3593, "bytes": 1_234_567}

    return answer


# Bundles


def test_an_export_appears_under_its_name_when_it_is_whole(home: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "b"
    seen: list[list[str]] = []

    def answer(params: dict[str, Any]) -> Any:
        seen.append(sorted(name for name in os.listdir(tmp_path) if name.startswith("b")))
        return writes(b"sealed")(params)

    with FakeDaemon(home, {"bundle.export": answer}) as daemon:
        code, words, talk = run("bundle", "export", str(path), "--space", "v")
        assert (code, talk) == (Exit.DONE, "")
        assert "3,593 entries, 1.2 MB" in words
        assert seen == [["b.part"]]
        assert path.read_bytes() == b"sealed"
        assert path.stat().st_mode & 0o777 == 0o600
        assert sorted(os.listdir(tmp_path)) == ["b", "home"]
        code, printed, _ = run("bundle", "export", str(tmp_path / "c"), "--for-peer", "--json")
    assert (code, json.loads(printed)) == (Exit.DONE, {"entries": 3593, "bytes": 1_234_567})
    assert daemon.calls == [
        ("bundle.export", {"space": "v", "for_peer": False}),
        ("bundle.export", {"for_peer": True}),
    ]


def test_a_file_that_is_there_already_is_left_alone(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.part").write_text("of another export")
    with FakeDaemon(home, {"bundle.export": writes(b"sealed")}) as daemon:
        for name in ("b", "link"):
            code, out, talk = run("bundle", "export", str(tmp_path / name))
            assert (code, out, "already" in talk) == (Exit.FAILED, "", True)
        code, _, talk = run("bundle", "export", str(tmp_path / "c"))
        assert (code, "c.part is there" in talk) == (Exit.FAILED, True)
        code, _, talk = run("bundle", "export", str(tmp_path / "no" / "d"))
        assert (code, "No such file or directory" in talk) == (Exit.FAILED, True)
    assert daemon.calls == []
    assert (tmp_path / "b").read_text() == "mine"
    assert (tmp_path / "c.part").read_text() == "of another export"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusing(1, "bundle.disk", reason="No space left on device"), Exit.FAILED),
        (refusing(4, "bundle.no_peer"), Exit.NOT_FOUND),
        (refusing(4, "space.several", count=2), Exit.NOT_FOUND),
        (None, Exit.NO_DAEMON),
    ],
)
def test_an_export_that_fails_leaves_nothing_behind(
    home: Path, run: Run, tmp_path: Path, answer: Any, code: Exit
) -> None:
    with FakeDaemon(home, {"bundle.export": answer}):
        told = run("bundle", "export", str(tmp_path / "b"))
        assert told[:2] == (code, "")
        assert len(told[2].splitlines()) == 1
        assert run("bundle", "export", str(tmp_path / "b"), "--json")[:2] == (code, "")
    assert os.listdir(tmp_path) == ["home"]


def test_an_export_since_another_bundle_shows_the_daemon_that_one_first(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old one")
    shown: list[bytes] = []

    def since(params: dict[str, Any]) -> Any:
        shown.append(os.read(params["file"], 100))
        return {"since": "f" * 32, "logs": 7}

    answers = {"bundle.since": since, "bundle.export": writes(b"sealed")}
    with FakeDaemon(home, answers) as daemon:
        assert run("bundle", "export", str(tmp_path / "new"), "--since", str(tmp_path / "old"))[0] == Exit.DONE
        assert run("bundle", "export", str(tmp_path / "other"), "--since", str(tmp_path / "absent"))[0] == Exit.FAILED
    assert shown == [b"old one"]
    assert daemon.calls == [("bundle.since", {}), ("bundle.export", {"for_peer": False, "since": "f" * 32})]
    assert sorted(os.listdir(tmp_path)) == ["home", "new", "old"]


def test_an_import_hands_over_the_open_file_and_tells_what_became_of_it(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"sealed")

    def answer(params: dict[str, Any]) -> Any:
        assert os.read(params["file"], 100) == b"sealed"
        return IMPORTED

    with FakeDaemon(home, {"bundle.import": answer}, {"bundle.import": [{"done": 1, "total": 2}]}) as daemon:
        assert run("bundle", "import", str(tmp_path / "b")) == (0, "New 3,593, known 12, refused 0.\n", "")
        code, words, _ = run("bundle", "import", str(tmp_path / "b"), "--dry-run")
        assert (code, words) == (0, "Would be new 3,593, known 12, refused 0. Nothing was kept.\n")
        code, printed, talk = run("bundle", "import", str(tmp_path / "b"), "--json")
        assert (code, json.loads(printed), talk) == (0, IMPORTED, "")
    assert [params for _, params in daemon.calls] == [{"dry_run": False}, {"dry_run": True}, {"dry_run": False}]


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ({"damaged": 2}, Exit.FAILED, "damaged: 2 places"),
        ({"whole": False}, Exit.FAILED, "the end of the bundle is missing"),
        ({"refused": 1000}, Exit.DONE, "refused: 1,000 entries"),
        ({"forked": 1}, Exit.DONE, "forked: 1 stretches"),
        ({"unknown": 5}, Exit.DONE, "left out: 5 entries of authors"),
        ({"early": 6}, Exit.DONE, "left out: 6 entries that follow"),
    ],
)
def test_what_was_not_taken_is_said_and_damage_is_code_1(
    home: Path, run: Run, tmp_path: Path, told: dict[str, Any], code: Exit, words: str
) -> None:
    (tmp_path / "b").touch()
    with FakeDaemon(home, {"bundle.import": {**IMPORTED, **told}}):
        said = run("bundle", "import", str(tmp_path / "b"))
        assert (said[0], words in said[1]) == (code, True)
        assert run("bundle", "import", str(tmp_path / "b"), "--json")[0] == code


def test_what_cannot_be_opened_is_said_before_the_daemon_is_asked(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with FakeDaemon(home, {"bundle.import": refusing(5, "bundle.foreign")}) as daemon:
        assert run("bundle", "import", str(tmp_path / "absent"))[0] == Exit.FAILED
        assert daemon.calls == []
        code, out, talk = run("bundle", "import", str(tmp_path / "b"))
        assert (code, out, "not a bundle" in talk) == (Exit.REFUSED, "", True)
    os.mkfifo(tmp_path / "pipe")
    with FakeDaemon(tmp_path / "other", {"bundle.import": refusing(5, "bundle.no_file")}):
        code, _, talk = run("bundle", "import", str(tmp_path / "pipe"), "--home", str(tmp_path / "other"))
        assert (code, "no pipe" in talk) == (Exit.REFUSED, True)


# Relays


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{WHERE}/{KEY}", f"{WHERE}/{KEY}"),
        (f" [2001:DB8::1]:7000/{KEY.upper()} ", f"[2001:db8::1]:7000/{KEY}"),
        (f"{'a' * 56}.onion:7000/{KEY}", f"{'a' * 56}.onion:7000/{KEY}"),
        (WHERE, "malformed"),
        (f"{WHERE}{KEY}", "malformed"),
        (f"{WHERE}/{KEY[:-1]}", "key"),
        (f"{WHERE}/{KEY}a", "key"),
        (f"{WHERE}/", "key"),
        (f"{WHERE}/{KEY[:-1]}9", "key"),
        (f"{WHERE}/{KEY}/{KEY}", "port"),
        (f"203.0.113.5/{KEY}", "malformed"),
        (f"203.0.113.5:0/{KEY}", "port"),
        (f"2001:db8::1:7000/{KEY}", "malformed"),
        (f"0.0.0.0:7000/{KEY}", "unspecified"),
        ("", "malformed"),
    ],
)
def test_a_relay_is_written_in_one_way_and_every_other_is_refused(text: str, told: str) -> None:
    if ":" in told:
        assert str(parse_relay(text)) == told
        return
    with pytest.raises(InputRefused) as refusal:
        parse_relay(text)
    assert (refusal.value.field, refusal.value.reason) == ("relay", told)
    assert f"refused.relay.{told}" in TABLE, "with a sentence of its own"


def test_relays_are_added_listed_and_removed(home: Path, run: Run) -> None:
    full = {**RELAY, "state": "unreachable", "seen": None, "waiting": 1203, "refusal": "full", "warnings": ["restored"]}
    answers = {"relay.add": {"relay": RELAY["relay"]}, "relay.list": [RELAY, full], "relay.remove": {"relay": WHERE}}
    with FakeDaemon(home, answers) as daemon:
        assert run("relay", "add", "-", given=f"{WHERE}/{KEY}\nmore\n") == (0, f"In use: {WHERE}/{KEY}\n", "")
        assert run("relay", "add", f"{WHERE}/{KEY}", "--space", "v")[0] == Exit.DONE
        _, rows, _ = run("relay", "list")
        assert rows.splitlines()[0].split() == ["MAILBOX", "MEETING", "POINT", "SEEN", "TO", "APPEND", "ADDRESS"]
        assert "up to date" in rows
        unreachable, full_up, restored = rows.splitlines()[2:]
        assert unreachable.startswith("unreachable")
        assert unreachable.endswith(WHERE)
        assert (full_up, restored) == ("it is full", "restored from an old copy!")
        assert "1,203" in rows
        assert json.loads(run("relay", "list", "--json")[1]) == [RELAY, full]
        assert run("relay", "remove", WHERE)[0] == Exit.DONE
    assert [params for method, params in daemon.calls if method != "relay.list"] == [
        {"relay": f"{WHERE}/{KEY}"},
        {"relay": f"{WHERE}/{KEY}", "space": "v"},
        {"relay": WHERE},
    ]
    with FakeDaemon(home.with_name("b"), {"relay.list": [], "relay.remove": refusing(4, "relay.unknown")}):
        assert "No relays yet" in run("relay", "list", "--home", f"{home}/../b")[1]
        assert run("relay", "remove", WHERE, "--home", f"{home}/../b")[0] == Exit.NOT_FOUND


@pytest.mark.parametrize(
    "words",
    [
        "relay run",
        "relay run --listen nowhere",
        "relay run --listen 127.0.0.1:0 --quota x",
        "relay add",
        "bundle export",
        "bundle import a b",
        "bundle frobnicate",
        "sync explain a b",
        "sync frobnicate",
        "relay",
    ],
)
def test_wrong_use_of_them_is_one_sentence(run: Run, words: str) -> None:
    code, out, talk = run(*words.split())
    assert (code in (Exit.WRONG_USE, Exit.REFUSED), out, len(talk.splitlines())) == (True, "", 1)


# Status, sync, explain


def test_status_shows_every_path_and_its_keys_are_as_before(home: Path, run: Run) -> None:
    stuck = {**RELAY, "waiting": 5, "waiting_since": "2026-11-23T10:15:00Z", "warnings": ["damaged", "equivocates"]}
    paths = [
        {"kind": "proxy", "address": "127.0.0.1:9050", "state": "in-use"},
        {"kind": "lan", "state": "off"},
        PEER,
        {**PEER, "state": "proxy-down"},
        stuck,
        {"kind": "pigeon", "state": "tired"},  # of a newer daemon
    ]
    told = {**STATUS, "paths": paths}
    with FakeDaemon(home, {"status": told}):
        words = run("status")[1]
        printed = json.loads(run("status", "--json")[1])
    assert set(printed) == {"node", "spaces", "peers", "paths"}
    assert {"version", "listen", "lan"} <= set(printed["node"])
    assert {"id", "name", "entries", "logs", "members", "fingerprint", "pending", "missing"} <= set(
        printed["spaces"][0]
    )
    for said in ("127.0.0.1:9050", "in use", "holds damaged messages", "tells members different stories!", "pigeon"):
        assert said in words
    older = {key: value for key, value in STATUS.items() if key != "paths"}
    with FakeDaemon(home.with_name("older"), {"status": older}):
        assert run("status", "--home", str(home.with_name("older")))[0] == Exit.DONE


def test_sync_tells_of_relays_where_there_are_some_and_of_an_older_daemon_what_it_tells(home: Path, run: Run) -> None:
    told = {"peers": 2, "equal": 1, "received": 5, "relays": 2, "relays_equal": 1}
    with FakeDaemon(home, {"sync": told}) as daemon:
        assert len(run("sync")[1].splitlines()) == 1
        assert len(run("sync", "--wait")[1].splitlines()) == 2
        assert json.loads(run("sync", "--wait", "--json")[1]) == told
        assert daemon.calls[0] == ("sync", {"wait": False})
    with FakeDaemon(home.with_name("b"), {"sync": {"peers": 2, "equal": 1, "received": 5}}):
        assert run("sync", "--wait", "--home", str(home.with_name("b")))[0] == Exit.DONE


EXPLAINED = {"id": None, "here": None, "peers": 0, "peers_equal": 0, "relays": 0, "relays_holding": None, "reasons": []}


def test_explain_says_who_has_it_and_what_would_help(home: Path, run: Run) -> None:
    reasons = [{"key": "explain.pending", "fields": {"count": 3}}, {"key": "explain.of_tomorrow", "fields": {}}]
    here = {**EXPLAINED, "id": "4" * 64, "here": True, "relays": 2, "relays_holding": 1, "reasons": reasons}
    answers: dict[str, Any] = {"": EXPLAINED, "4f1c09": here, "ffffff": {**EXPLAINED, "here": False}}
    answers["aaaaaa"] = refusing(4, "report.ambiguous")
    with FakeDaemon(home, {"sync.explain": lambda params: answers[params.get("id", "")]}) as daemon:
        code, words, _ = run("sync", "explain")
        assert (code, words.splitlines()[-1][:7]) == (0, "Nothing")
        lines = run("sync", "explain", "4f1c09", "--space", "v")[1].splitlines()
        assert lines == [
            "The report is here.",
            "No peer is connected.",
            "It lies at 1 of 2 relays.",
            "3 entries are here and not listed yet: that takes moments.",
            "explain.of_tomorrow",
        ]
        assert json.loads(run("sync", "explain", "4f1c09", "--json")[1]) == here
        assert run("sync", "explain", "aaaaaa")[:2] == (Exit.NOT_FOUND, "")
    assert daemon.calls[1] == ("sync.explain", {"id": "4f1c09", "space": "v"})


STATES = ["unreachable", "proxy-down", "no-proxy", "silent", "slow", "cut", "broke-rules", "too-small", "store"]


def node(
    *, pending: int = 0, lan: str = "off", proxy: Any = None, peers: Any = (), relays: Any = (), connected: bool = False
) -> Any:
    """As much of a node as an explanation looks at."""
    space = SimpleNamespace(no=1)
    outposts = [
        SimpleNamespace(address=Relay(Address("r", 1), bytes(32)), mailbox=SimpleNamespace(told=t)) for t in relays
    ]
    sessions = {1: (SimpleNamespace(space=space), None)} if connected else {}
    return SimpleNamespace(
        space=space,
        store=SimpleNamespace(counters=lambda no: SimpleNamespace(pending=pending, missing=pending)),
        sync=SimpleNamespace(
            candidates={n: SimpleNamespace(space=space, address=("p", n), failure=f) for n, f in enumerate(peers, 1)},
            connected=lambda candidate: False,
            register=SimpleNamespace(sessions=sessions),
        ),
        outposts=SimpleNamespace(of=lambda space: outposts),
        settings=SimpleNamespace(lan=lan, proxy=proxy, listen=[Address(LAN_HOST, 4000)]),
        ambient=SimpleNamespace(now=lambda: 1_800_000_000.0),
    )


def test_every_sentence_of_an_explanation_is_said_of_some_node(home: Path, run: Run) -> None:
    told = [Told(state=state, seen=1.0) for state in STATES]
    told += [Told(state="waiting", refusal=slug) for slug in ("full", "topic-full", "no-new-topics", "failed")]
    told.append(Told(state="waiting", warnings={"restored", "equivocates", "damaged", "refused"}))
    told += [Told(state=state, waiting=5, waiting_since=1_799_990_000.0) for state in ("waiting", "cut")]
    nodes = [
        node(),
        node(lan="listen", peers=["closed"]),
        node(pending=3, relays=told, peers=["unreachable", "proxy-down", "no-proxy", "x", None], lan="announce"),
        node(connected=True, relays=[Told(state=state) for state in ("new", "reading", "appending", "waiting")]),
    ]
    said = [[reason.as_json() for reason in reasons(one, one.space)] for one in nodes]
    assert said[3] == []
    keys = {reason["key"] for group in said for reason in group}
    of_the_answer = {f"explain.{key}" for key in ("here", "unknown", "alone", "peers", "relays", "well", "never")}
    assert {key for key in TABLE if key.startswith("explain.")} == keys | of_the_answer
    reasons_told = [reason for group in said for reason in group]
    reasons_told.append({"key": "explain.unknown", "fields": {}})
    with FakeDaemon(home, {"sync.explain": {**EXPLAINED, "reasons": reasons_told}}):
        code, words, _ = run("sync", "explain")
    assert code == Exit.DONE
    assert len(words.splitlines()) == len(reasons_told) + 1
    assert "{" not in words
    assert "for 166 minutes" in words


# Words of others


@pytest.mark.parametrize("nasty", NASTY)
def test_no_address_or_file_name_of_others_can_draw_or_break_a_line(
    home: Path, run: Run, tmp_path: Path, nasty: str
) -> None:
    relay = {**RELAY, "address": nasty, "relay": nasty, "state": nasty, "refusal": nasty, "warnings": [nasty]}
    relay |= {"meeting": nasty}
    peer = {**PEER, "address": nasty, "state": nasty}
    fields = {"address": nasty, "why": nasty, "seen": nasty}
    reasons = [{"key": key, "fields": fields} for key in ("explain.relay_down", "explain.peer_down", nasty)]
    error = refusing(1, "bundle.disk", reason=nasty)
    answers = {
        "status": {**STATUS, "paths": [relay, peer, {"kind": nasty, "state": nasty}]},
        "relay.list": [relay],
        "relay.add": {"relay": nasty},
        "relay.remove": {"relay": nasty},
        "sync.explain": {**EXPLAINED, "reasons": reasons},
        "bundle.export": writes(b"x"),
        "bundle.import": error,
    }
    name = str(tmp_path / nasty.replace("/", "").replace("\0", ""))
    Path(name + "i").touch()
    Path(name + "p.part").touch()
    with FakeDaemon(home, answers):
        for words in (
            ["status"],
            ["relay", "list"],
            ["relay", "add", "x"],
            ["relay", "remove", "x"],
            ["sync", "explain"],
            ["bundle", "export", name],
            ["bundle", "export", name],
            ["bundle", "export", name + "p"],
            ["bundle", "import", name + "i"],
        ):
            for extra in ([], ["--json"]):
                _, out, talk = run(*words, *extra)
                assert out + talk
                for line in (out + talk).split("\n"):
                    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line), (words, line)
                    assert not set(line) & set("\u202e\u200b\u2028\U000e0041\ufe0f")
                    assert not line.startswith("VERIFIED")


# Wiping


def test_wipe_takes_a_relay_inside_the_home_too(home: Path, run: Run) -> None:
    run("init", "--no-passphrase")
    relay = home / "relay"
    relay.mkdir(mode=0o700)
    keystore.create(relay / "key.json", None, os.urandom)
    before = (relay / "key.json").read_bytes()
    for name in ("shelf.db", "shelf.db-wal", "shelf.db-shm", "daemon.log", "daemon.log.1", "lock"):
        (relay / name).write_text("x")
    kept = os.open(relay / "key.json", os.O_RDONLY)
    assert run("wipe", "--yes")[0] == Exit.DONE
    assert os.pread(kept, len(before), 0) != before, "it was overwritten before it was removed"
    os.close(kept)
    assert not home.exists()


def test_a_home_that_is_only_a_relay_can_be_wiped_and_files_of_others_stay(home: Path, run: Run) -> None:
    relay = home / "relay"
    relay.mkdir(parents=True, mode=0o700)
    keystore.create(relay / "key.json", None, os.urandom)
    (relay / "thesis").write_text("x")
    code, printed, _ = run("wipe", "--yes", "--json")
    assert (code, json.loads(printed)["left"]) == (Exit.DONE, 1)
    assert os.listdir(relay) == ["thesis"]
