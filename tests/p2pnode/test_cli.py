"""The command line against a daemon that only answers: words in, calls out, and what people and programs are told."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon

from p2pnode import cli, config, keystore
from p2pnode.commands import NOUNS
from p2pnode.failures import Exit

ID = "4f1c09" + "ab" * 29
SPACE = {
    "id": "5" * 64,
    "name": "vecinos",
    "entries": 3593,
    "logs": 12,
    "members": 3,
    "fingerprint": "f" * 64,
    "pending": 0,
    "missing": 7,
}
STATUS = {
    "node": {"version": "0.1.0", "listen": ["10.0.0.5:4000"], "lan": "listen", "proxy": None},
    "spaces": [SPACE],
    "peers": 2,
    "paths": [{"kind": "lan", "state": "listen"}],
}
REPORT = {
    "id": ID,
    "space": "5" * 64,
    "category": "roadblock",
    "title": "Retén en la salida",
    "text": "Dos\ncamionetas",
    "place": "9g3w8",
    "place_name": "Salida norte",
    "observed": {"from": "2026-11-23T10:00:00Z", "to": "2026-11-23T10:15:00Z"},
    "filed": "2026-11-23T10:15:00Z",
    "author": {"name": "ana", "key": "c" * 64},
    "tags": ["sur"],
    "basis": "saw",
    "severity": 2,
    "state": "ongoing",
    "lang": "es",
    "status": "UNCONFIRMED",
    "flags": [],
    "counts": {},
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(*words: str, given: str | bytes = "") -> tuple[int, str, str]:
        raw = given.encode() if isinstance(given, str) else given
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        try:
            code = cli.main(list(words))
        except SystemExit as left:  # --help
            code = int(left.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stays one that can be debugged, and its passphrases are quick."""
    monkeypatch.setattr("p2pnode.hardening.harden", lambda: None)
    monkeypatch.setattr(keystore, "OPS", 2)


# What is asked


def test_status_in_words_and_for_programs(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"status": STATUS}) as daemon:
        code, words, _ = run("status")
        assert code == Exit.DONE
        assert "10.0.0.5:4000" in words
        assert "3,593" in words
        assert "“vecinos”" in words
        code, printed, talk = run("status", "--json")
    assert (code, json.loads(printed), talk) == (Exit.DONE, STATUS, "")
    assert daemon.calls == [("status", {})] * 2


def test_json_and_home_may_stand_anywhere(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"status": STATUS}):
        for words in (
            ["--json", "status"],
            ["status", "--json", "--home", str(home)],
            ["--home", str(home), "status", "--json"],
        ):
            assert json.loads(run(*words)[1]) == STATUS


def test_options_reach_the_daemon_under_their_names_and_only_when_given(home: Path, run: Run) -> None:
    answers = {
        "space.create": {"id": ID},
        "invite.create": {"invite": "p2p1abc"},
        "join": {"id": ID, "name": "vecinos"},
        "peer.add": {"address": "a:1"},
        "sync": {"peers": 1, "equal": 1, "received": 5},
        "report.list": [],
        "search": [],
        "report.show": REPORT,
        "space.list": [SPACE],
        "peer.list": [],
        "log.check": {"entries": 1, "logs": 1, "forks": 0, "bad": 0},
    }
    with FakeDaemon(home, answers) as daemon:
        for words in (
            "space create vecinos --pen ana",
            "space list",
            "invite create --space v --address a:1 --address b:2 --expires 2h",
            "join - --name ana",
            "peer add a:1 --space v",
            "peer list",
            "sync --wait --timeout 5",
            "report list --category roadblock --since 2026-01-01 --near -33.4,-70.6 --radius 5 --tag x --limit 3",
            "search agua hosp* --limit 0",
            "report show 4f1c09",
            "log check",
        ):
            assert run(*words.split(), given="abc\n def\n")[0] == Exit.DONE, words
    assert daemon.calls == [
        ("space.create", {"name": "vecinos", "pen": "ana"}),
        ("space.list", {}),
        ("invite.create", {"space": "v", "address": ["a:1", "b:2"], "expires": "2h", "by_relay": False}),
        ("join", {"invite": "abcdef", "name": "ana", "by_relay": False}),
        ("peer.add", {"address": "a:1", "space": "v"}),
        ("peer.list", {}),
        ("sync", {"wait": True, "timeout": 5.0}),
        (
            "report.list",
            {
                "category": "roadblock",
                "since": "2026-01-01",
                "near": "-33.4,-70.6",
                "radius": 5.0,
                "tag": "x",
                "limit": 3,
                "offset": 0,
            },
        ),
        ("search", {"words": "agua hosp*", "limit": 500, "offset": 0}),
        ("report.show", {"id": "4f1c09"}),
        ("log.check", {}),
    ]


@pytest.mark.parametrize(
    ("place", "cell"),
    [("-33.44,-70.66", "66jcb"), ("19.43,-99.13", "9g3w8"), ("9g3w8", "9g3w8"), ("geohash:este", "este")],
)
def test_a_position_becomes_its_cell_before_it_leaves_the_command(home: Path, run: Run, place: str, cell: str) -> None:
    with FakeDaemon(home, {"report.new": {"id": ID}}) as daemon:
        code, out, talk = run("report", "new", "--category", "other", "--title", "x", "--place", place)
    assert code == Exit.DONE
    assert daemon.calls[0][1]["place"] == f"geohash:{cell}"
    assert f"cell {cell}, about" in talk
    assert " km" in talk
    assert out == "Filed: 4f1c09ab\n"
    assert "33.44" not in json.dumps(daemon.calls)


def test_texts_come_from_standard_input_and_a_filing_carries_a_token(home: Path, run: Run) -> None:
    new = ("report", "new", "--category", "other")
    with FakeDaemon(home, {"report.new": {"id": ID}, "report.show": REPORT}) as daemon:
        run(*new, "--title", "-", "--text", "-", given="Título\nUna línea\notra\n")
        run(*new, "--title", "-- x", "--text", "-", given="--json\n")
        run(*new, "--title", "x", "--updates", "4f1c09", "--tag", "a", "--tag", "b", "--severity", "2")
    calls = [params for method, params in daemon.calls if method == "report.new"]
    assert (calls[0]["title"], calls[0]["text"]) == ("Título", "Una línea\notra\n")
    assert (calls[1]["title"], calls[1]["text"]) == ("-- x", "--json")
    assert (calls[2]["updates"], calls[2]["tag"], calls[2]["severity"]) == (ID, ["a", "b"], 2)
    assert len({call["once"] for call in calls}) == 3
    assert all(len(call["once"]) == 32 for call in calls)


def test_a_long_list_is_fetched_in_pages_and_nothing_twice(home: Path, run: Run) -> None:
    everything = [{**REPORT, "id": f"{number:064x}"} for number in range(1203)]

    def page(params: dict[str, Any]) -> Any:
        moved = params["offset"] - 1 if params["offset"] else 0  # one more has arrived after the first page
        return everything[moved : moved + params["limit"]]

    with FakeDaemon(home, {"report.list": page}) as daemon:
        whole = json.loads(run("report", "list", "--limit", "0", "--json")[1])
        some = json.loads(run("report", "list", "--limit", "700", "--json")[1])
    assert [report["id"] for report in whole] == [report["id"] for report in everything]
    assert [report["id"] for report in some] == [report["id"] for report in everything[:700]]
    assert max(params["limit"] for _, params in daemon.calls) == 500


# What people are shown


def test_a_report_in_words(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"report.list": [REPORT], "report.show": REPORT}):
        _, rows, _ = run("report", "list")
        _, page, _ = run("report", "show", "4f1c09")
    assert rows.splitlines()[1] == (
        "4f1c09ab  2026-11-23 10:15  UNCONFIRMED  roadblock  9g3w8  “ana” cccccccc  “Retén en la salida”"
    )
    assert page.splitlines()[:6] == [
        "UNCONFIRMED · roadblock · severity 2 · ongoing · saw",
        "",
        "  │ Retén en la salida",
        "",
        "  │ Dos",
        "  │ camionetas",
    ]
    assert "9g3w8 (4.6 × 4.9 km)" in page


def test_silence_is_not_calm(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"report.list": []}):
        assert "unknown" in run("report", "list")[1]
        assert run("report", "list", "--json")[1] == "[]\n"


NASTY = ["\x1b]0;x\x07\x1b[2J", "\x9b1m\x7f\x08\r", "\u202ex", "\u200b\U000e0041\ufe0f", "a\nVERIFIED  b\u2028c"]


@pytest.mark.parametrize("nasty", NASTY)
def test_no_field_of_others_can_draw_or_break_a_line(home: Path, run: Run, nasty: str) -> None:
    dirty = {
        **REPORT,
        "title": nasty,
        "text": nasty,
        "place_name": nasty,
        "category": nasty,
        "tags": [nasty],
        "author": {"name": nasty, "key": "c" * 64},
        "state": nasty,
        "basis": nasty,
        "lang": nasty,
    }
    status = {**STATUS, "spaces": [{**SPACE, "name": nasty}]}
    peer = {"address": nasty, "state": nasty, "origin": "lan", "seen": None, "space": ID}
    error = {"error": {"code": 1, "message": nasty, "data": {"key": "daemon.says", "fields": {"detail": nasty}}}}
    answers = {"report.list": [dirty], "search": [dirty], "report.show": dirty, "status": status}
    answers |= {"space.list": [status["spaces"][0]], "peer.list": [peer], "log.check": error}
    with FakeDaemon(home, answers):
        for words in (
            "report list",
            "search x",
            "report show 4f1c09",
            "status",
            "space list",
            "peer list",
            "log check",
        ):
            for extra in ([], ["--json"]):
                _, out, talk = run(*words.split(), *extra)
                for line in (out + talk).split("\n"):
                    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line), (words, line)
                    assert not set(line) & set("\u202e\u200b\u2028\U000e0041\ufe0f")
                    assert not line.startswith("VERIFIED")


def test_the_invitation_alone_is_the_data(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"invite.create": {"invite": "p2p1abc"}}):
        assert run("invite", "create") == (0, "p2p1abc\n", "")


def test_on_a_terminal_an_invitation_is_also_a_picture(home: Path) -> None:
    with FakeDaemon(home, {"invite.create": {"invite": "p2p1abc"}}):
        code, shown = on_a_terminal(["invite", "create"], b"")
    assert code == Exit.DONE
    assert "▀" in shown.decode()
    assert "hand it over unseen" in shown.decode()


def test_on_a_terminal_a_long_call_shows_how_far_it_has_come(home: Path) -> None:
    notes = [{"done": 250, "total": 1000}, {"done": 1000, "total": 1000}]
    answer = {"entries": 1000, "logs": 2, "forks": 0, "bad": 3}
    with FakeDaemon(home, {"log.check": answer}, {"log.check": notes}):
        code, shown = on_a_terminal(["log", "check"], b"")
    assert code == Exit.FAILED
    assert "█░" in shown.decode()
    assert "25%" in shown.decode()
    assert shown.decode().splitlines()[-1].startswith("3 of 1,000 entries are damaged")


def test_on_a_terminal_what_is_missing_of_a_report_is_asked_for(home: Path) -> None:
    with FakeDaemon(home, {"report.new": {"id": ID}}) as daemon:
        code, _ = on_a_terminal(["report", "new"], "other\nTítulo\n\x04".encode())
    assert code == Exit.DONE
    (said,) = [params for _, params in daemon.calls]
    assert (said["category"], said["title"]) == ("other", "Título")


# What goes wrong


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "stop",
        "space list",
        "space create x",
        "invite create",
        "join abc",
        "report list",
        "report show 4f1c09",
        "search x",
        "watch",
        "peer list",
        "peer add a:1",
        "sync",
        "sync explain",
        "relay list",
        "relay add a:1/b",
        "relay remove a:1",
        "bundle export x",
        "log check",
        "report new --category other --title x",
    ],
)
def test_without_a_daemon_every_command_names_the_one_that_starts_it(home: Path, run: Run, words: str) -> None:
    code, out, talk = run(*words.split())
    assert (code, out) == (Exit.NO_DAEMON, "")
    assert "p2pnode start" in talk
    code, out, talk = run(*words.split(), "--json")
    assert (code, out) == (Exit.NO_DAEMON, "")
    assert json.loads(talk)["error"]["code"] == 3


@pytest.mark.parametrize(
    "words",
    [
        "",
        "frobnicate",
        "--frobnicate",
        "report",
        "report frobnicate",
        "status --frobnicate",
        "status extra",
        "report list --lim 5",
        "report list --limit x",
        "report list --limit -1",
        "report list --near",
        "report new --title x",
        "init --profile x --no-passphrase",
        "init",
        "join",
        "search",
        "init --no-passphrase --passphrase-file x",
    ],
)
def test_wrong_use_is_one_sentence_and_code_2(run: Run, words: str) -> None:
    code, out, talk = run(*words.split())
    assert (code, out) == (Exit.WRONG_USE, "")
    assert words == "" or len(talk.splitlines()) == 1


def test_the_daemons_refusals_keep_their_code_and_are_said_in_our_words(home: Path, run: Run) -> None:
    refusals = {
        "report.show": {"code": 4, "message": "other words", "data": {"key": "report.unknown", "fields": {}}},
        "search": {"code": 5, "message": "of a newer daemon", "data": {"key": "not.yet.known", "fields": {}}},
        "sync": {"code": -32601, "message": "unknown method"},
    }
    with FakeDaemon(home, {method: {"error": error} for method, error in refusals.items()}):
        assert run("report", "show", "4f1c09") == (4, "", "p2pnode: no report has this id.\n")
        assert run("search", "x") == (5, "", "p2pnode: of a newer daemon\n")
        assert run("sync")[0] == Exit.FAILED


def test_a_daemon_that_goes_away_in_the_middle_is_code_3(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"status": None}):
        assert run("status")[0] == Exit.NO_DAEMON


def test_input_that_is_not_text_is_refused(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"report.new": {"id": ID}}) as daemon:
        new = ("report", "new", "--category", "other", "--title", "x")
        assert run(*new, "--text", "-", given=b"\xff\xfe")[0] == Exit.REFUSED
        assert run(*new, "--text", os.fsdecode(b"\xff"))[0] == Exit.REFUSED
        assert run(*new, "--place", "91,0")[0] == Exit.REFUSED
        assert run(*new, "--place", "puente")[0] == Exit.REFUSED
        assert run(*new, "--place", "1,1", "--precision", "9")[0] == Exit.REFUSED
    assert daemon.calls == []


def test_help_tells_all_commands_and_every_command_helps(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == Exit.DONE
    for noun, (_, verbs) in NOUNS.items():
        if verbs:
            assert run(noun, "--help")[0] == Exit.DONE
    for words in (f"{noun} {verb}".strip() for noun, (_, verbs) in NOUNS.items() for verb in verbs or ("",)):
        assert f"  {words} " in out
        code, told, _ = run(*words.split(), "--help")
        assert code == Exit.DONE
        assert "example:\n  p2pnode" in told
    assert run("--version") == (0, "p2pnode 0.1.0\n", "")


# Import


def test_import_sends_records_in_batches_and_adds_up_what_became_of_them(home: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    report = {"category": "other", "text": "\x01" * 2000, "place": "19.4326,-99.1332"}
    lines = [json.dumps({**report, "title": f"Título {number}"}) for number in range(300)]
    file.write_text("\n".join(["{broken", *lines, json.dumps({"category": "other"})]))

    def take(params: dict[str, Any]) -> Any:
        refused = [{"line": record["line"], "reason": "late"} for record in params["records"][:1]]
        return {"imported": len(params["records"]) - 1, "skipped": 0, "refused": refused}

    with FakeDaemon(home, {"report.import": take}) as daemon:
        code, printed, _ = run("report", "import", str(file), "--json", "--space", "v")
        told = json.loads(printed)
        assert "line 1: not-json" in run("report", "import", str(file))[1]
    batches = [params["records"] for _, params in daemon.calls][: len(daemon.calls) // 2]
    assert code == Exit.DONE
    assert len(batches) > 3
    assert all(len(json.dumps(batch)) < 1024 * 1024 for batch in batches)
    assert [record["line"] for batch in batches for record in batch] == list(range(2, 302))
    assert told["imported"] == 300 - len(batches)
    assert told["refused"][0] == {"line": 1, "field": "", "reason": "not-json"}
    assert told["refused"][-1] == {"line": 302, "field": "title", "reason": "missing"}
    record = batches[0][0]["report"]
    assert record["place"] == "geohash:9g3w8"
    assert len(batches[0][0]["mark"]) == 32


def test_a_broken_array_is_refused_before_any_of_it_is_sent(home: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text('[{"category":"other","title":"x"},' + '{"category":"other","title":"y"}')
    with FakeDaemon(home, {"report.import": {"imported": 1, "skipped": 0, "refused": []}}) as daemon:
        assert run("report", "import", str(file))[0] == Exit.REFUSED
        assert run("report", "import", str(tmp_path / "absent"))[0] == Exit.FAILED
        file.write_text("{broken\n{broken")
        assert run("report", "import", str(file))[0] == Exit.REFUSED
    assert daemon.calls == []


def test_what_is_imported_is_understood_as_it_was_read() -> None:
    from p2pnode import importing
    from p2pnode.commands.bring import as_options
    from protocol.report import Observed, Report

    full = Report(
        category="roadblock",
        title="Título",
        text="Texto\n",
        tags=("a", "b"),
        observed=Observed(1_700_000_000, 900),
        place="este",
        place_name="Salida",
        basis="saw",
        severity=0,
        state="ended",
        lang="es",
        relations=(("updates", bytes(32)),),
        ttl_s=3600,
    )
    for report in (Report(category="other", title="x"), full):
        assert importing.report_of(json.loads(json.dumps(as_options(report)))) == (report, [])


# Watching, waiting, interrupting


def test_watch_prints_a_report_a_line(home: Path, run: Run) -> None:
    with FakeDaemon(home, {"watch": {}}, {"watch": [{"watching": True}, REPORT, REPORT]}):
        code, out, talk = run("watch", "--json")
        assert [json.loads(line) for line in out.splitlines()] == [REPORT, REPORT]
        assert talk == "Watching. Ctrl-C ends.\n"
        assert len(run("watch")[1].splitlines()) == 2
    assert code == Exit.DONE


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "p2pnode", *words]


def test_ctrl_c_ends_a_command_with_130_and_a_closed_pipe_without_a_traceback(home: Path) -> None:
    def wait(params: dict[str, Any]) -> Any:
        time.sleep(20)

    listed = [{**REPORT, "id": f"{number:064x}"} for number in range(50)]
    with FakeDaemon(home, {"watch": wait, "report.list": listed}, {"watch": [{"watching": True}]}):
        with subprocess.Popen(command("watch"), stderr=subprocess.PIPE) as watching:
            assert watching.stderr is not None
            watching.stderr.readline()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(10) == Exit.INTERRUPTED
            assert b"Traceback" not in watching.stderr.read()
        reader, writer = os.pipe()
        os.close(reader)
        with subprocess.Popen(command("report", "list"), stdout=writer, stderr=subprocess.PIPE) as listing:
            os.close(writer)
            assert listing.stderr is not None
            assert listing.stderr.read() == b""
            assert listing.wait(10) == Exit.FAILED


HEAVY = {
    "trio",
    "nacl",
    "zeroconf",
    "cbor2",
    "apsw",
    "asyncio",
    "logging",
    "dataclasses",
    "typing",
    "inspect",
    "shutil",
}


def test_status_imports_nothing_heavy_and_is_quick(home: Path) -> None:
    program = f"import sys; sys.path[:0] = {sys.path!r}; from p2pnode.cli import main; main(['status', '--json']); "
    program += "print(*sys.modules)"
    with FakeDaemon(home, {"status": STATUS}):
        words = [sys.executable, "-I", "-c", program]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run(command("status"), capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
    modules = set(done.stdout.splitlines()[1].split())
    assert modules & (HEAVY | {"importlib.metadata"}) == set()
    assert len(modules) < 90, sorted(modules)
    if os.getloadavg()[0] < 1:
        assert min(times) < 0.1


def on_a_terminal(words: list[str], typed: bytes) -> tuple[int, bytes]:
    """Runs a command on a terminal of its own; types when asked; what the screen shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command(*words))
    shown = b""
    sent = 0
    lines = typed.splitlines(keepends=True)
    while True:
        ready, _, _ = select.select([terminal], [], [], 20)
        try:
            chunk = os.read(terminal, 4096) if ready else b""
        except OSError:
            chunk = b""
        if not chunk:
            break
        shown += chunk
        if sent < len(lines) and shown.rstrip().endswith(b":") and shown.count(b":") > sent:
            time.sleep(0.1)  # the question is out; echo is off from here on
            os.write(terminal, lines[sent])
            sent += 1
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


# Making and destroying a home


def test_init_asks_twice_on_a_terminal_and_shows_nothing_of_it(home: Path) -> None:
    code, shown = on_a_terminal(["init"], "ñandú secreto\nñandú secreto\n".encode())
    assert code == Exit.DONE
    assert b"secreto" not in shown
    assert keystore.needs_passphrase(home / "key.json")
    with pytest.raises(Exception, match=r"key\.wrong"):
        keystore.open(home / "key.json", "otro")
    assert len(keystore.open(home / "key.json", "ñandú secreto")) == 32


def test_init_refuses_two_different_passphrases_and_makes_nothing(home: Path) -> None:
    code, _ = on_a_terminal(["init"], b"one\nother\n")
    assert code == Exit.REFUSED
    assert not home.exists()


def test_a_passphrase_comes_from_a_files_first_line_or_standard_input(home: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("uno dos\r\nother line\n")
    assert run("init", "--passphrase-file", str(tmp_path / "phrase"))[0] == Exit.DONE
    keystore.open(home / "key.json", "uno dos")
    assert run("wipe", "--yes")[0] == Exit.DONE
    assert run("init", "--passphrase-file", "-", given="tres\n")[0] == Exit.DONE
    keystore.open(home / "key.json", "tres")


def test_an_empty_passphrase_and_an_unreadable_one_are_refused(home: Path, run: Run) -> None:
    assert run("init", "--passphrase-file", "-", given="\n")[0] == Exit.REFUSED
    assert run("init", "--passphrase-file", "-", given=b"\xff\n")[0] == Exit.REFUSED
    assert run("init", "--passphrase-file", str(home / "absent"))[0] == Exit.FAILED
    assert not home.exists()


def test_a_node_made_behind_a_proxy_stays_there(home: Path, run: Run) -> None:
    for proxy in ("localhost:9050", "off", "http://127.0.0.1:9050"):
        code, _, told = run("init", "--no-passphrase", "--proxy", proxy)
        assert (code, "the proxy is not an IP address" in told) == (Exit.REFUSED, True)
        assert not home.exists()
    code, printed, _ = run("init", "--no-passphrase", "--proxy", "socks5://127.0.0.1:9050", "--json")
    assert (code, json.loads(printed)["lan"]) == (Exit.DONE, "off")
    assert str(config.resolve(str(home), "").proxy) == "127.0.0.1:9050"


def test_init_makes_a_private_home_and_never_makes_it_twice(home: Path, run: Run) -> None:
    code, printed, _ = run("init", "--no-passphrase", "--profile", "field", "--json")
    assert code == Exit.DONE
    assert json.loads(printed) == {"home": str(home), "profile": "field", "passphrase": False, "lan": "off"}
    assert home.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in home.iterdir())
    before = {path: path.read_bytes() for path in home.iterdir()}
    assert run("init", "--no-passphrase")[0] == Exit.FAILED
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_init_leaves_other_peoples_directories_and_orphaned_stores_alone(home: Path, run: Run) -> None:
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    assert "other files" in run("init", "--no-passphrase")[2]
    (home / "thesis.txt").rename(home / "store.db")
    assert "whose key is gone" in run("init", "--no-passphrase")[2]


def test_wipe_takes_the_key_first_and_everything_of_ours_but_nothing_else(home: Path, run: Run) -> None:
    run("init", "--no-passphrase")
    for name in ("store.db", "store.db-wal", "store.db-shm", "store.db.new", "daemon.log", "thesis.txt"):
        (home / name).write_text("x")
    begun = time.monotonic()
    code, _, _ = run("wipe", "--yes")
    assert code == Exit.DONE
    assert time.monotonic() - begun < 2
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    (home / "thesis.txt").unlink()
    assert run("wipe", "--yes")[0] == Exit.NOT_FOUND


def test_a_wipe_killed_behind_its_first_step_has_destroyed_the_key_and_can_be_finished(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init", "--no-passphrase")
    (home / "store.db").write_text("x")
    key = json.loads((home / "key.json").read_text())["key"]
    left: list[bytes] = []

    def killed(path: str, *args: Any) -> None:
        left.append(Path(path).read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("p2pnode.commands.wipe.os.unlink", killed)
        assert run("wipe", "--yes")[0] == Exit.INTERRUPTED
    assert key.encode() not in left[0]  # the first unlink finds the key overwritten already
    assert run("status")[0] == Exit.NO_DAEMON
    assert run("wipe", "--yes")[0] == Exit.DONE
    assert not home.exists()


def test_wipe_asks_on_a_terminal_and_refuses_without_one(home: Path, run: Run) -> None:
    run("init", "--no-passphrase")
    assert run("wipe")[0] == Exit.WRONG_USE
    assert on_a_terminal(["wipe"], b"no\n")[0] == Exit.FAILED
    assert (home / "key.json").exists()
    assert on_a_terminal(["wipe"], b"wipe\n")[0] == Exit.DONE
    assert not home.exists()


def test_wipe_ends_the_process_that_holds_the_home(home: Path, run: Run) -> None:
    run("init", "--no-passphrase")
    program = "import sys, time; from p2pnode import homelock; homelock.take(sys.argv[1])\n"
    program += "print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, home], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert run("wipe", "--yes")[0] == Exit.DONE
        assert holder.wait(5) == -signal.SIGKILL
    assert not home.exists()


# The service


def test_the_unit_names_no_secret_and_survives_odd_paths(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    odd = tmp_path / 'a "b" $HOME %h'
    assert run("init", "--passphrase-file", "-", "--home", str(odd), given="secreto\n")[0] == Exit.DONE
    assert run("service", "install", "--home", str(odd))[0] == Exit.WRONG_USE
    code, printed, _ = run("service", "install", "--home", str(odd), "--passphrase-file", "/media/usb/p", "--json")
    unit = Path(json.loads(printed)["unit"]).read_text()
    assert code == Exit.DONE
    assert '\\"b\\" $$HOME %%h" "--passphrase-file" %d/passphrase\n' in unit
    assert "LoadCredential=passphrase:/media/usb/p\n" in unit
    assert "secreto" not in unit
