"""The board in the store: the same reports in the same order as `protocol.board` says, listed, searched and found."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import NOW, SPACE, Everybody, entries, filed, opened, without_payloads

from p2pnode.store import Once, Store, listing
from protocol.board import Filter, Listed
from protocol.board import listing as board_listing
from protocol.entry import Kind
from protocol.errors import InputRefused
from protocol.log import Run
from protocol.report import Observed, decode_untrusted

CELLS = (None, "9g3", "9g3w8", "9ex2r1", "9ev", "d7b")
TAGS = ("agua", "agua\0", "Agua", "puente")


def expected(*runs: Run) -> list[Listed]:
    return [
        Listed(0, run.ids[at], SPACE, run.log.author, run.lamports[at], run.times[at] * 900, decode_untrusted(payload))
        for run in runs
        for at, payload in enumerate(run.payloads)
        if payload is not None and run.kinds[at] == Kind.REPORT
    ]


_reports = st.builds(
    filed,
    category=st.sampled_from(["roadblock", "arson", "all-clear"]),
    title=st.sampled_from(["Bloqueo", "Tiroteo en el puente"]),
    tags=st.lists(st.sampled_from(TAGS), max_size=2, unique=True).map(tuple),
    place=st.sampled_from(CELLS),
    observed=st.none() | st.builds(Observed, st.integers(NOW - 5000, NOW + 5000), st.integers(0, 2000)),
)
_moments = st.none() | st.integers(NOW - 6000, NOW + 6000)
_filters = st.builds(
    Filter,
    category=st.sampled_from([None, None, "roadblock", "shooting"]),
    since=_moments,
    until=_moments,
    near=st.sampled_from([None, (19.4, -99.1), (25.7, -108.9), (0.0, 0.0)]),
    radius_km=st.sampled_from([0.0, 30.0, 900.0]),
    tag=st.sampled_from([None, None, *TAGS]),
    status=st.sampled_from([None, None, "UNCONFIRMED", "VERIFIED"]),
)
# A few moments for many reports, so that ties are the rule, some of them more than a day ahead.
_times = st.sampled_from([NOW // 900, NOW // 900 - 3, NOW // 900 + 96, NOW // 900 + 97, NOW // 900 + 500])
_filings = st.lists(st.tuples(_reports, _times), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(
    filings=_filings,
    wanted=_filters,
    limit=st.integers(0, 8),
    offset=st.integers(0, 3),
    recent=st.sampled_from([0, 2, 4000]),
)
async def test_the_list_is_the_one_of_the_board(
    tmp_path_factory: pytest.TempPathFactory,
    filings: list[tuple[bytes, int]],
    wanted: Filter,
    limit: int,
    offset: int,
    recent: int,
) -> None:
    runs = [
        entries(f"author {number % 3}", [payload], number=number, times=[time], lamport=1 + number % 2)
        for number, (payload, time) in enumerate(filings)
    ]
    listing.RECENT = recent
    async with opened(tmp_path_factory.mktemp("s") / "s", inline=True) as (store, no):
        await store.commit_runs(no, runs, Everybody())
        assert await store.index_some() == 0
        right = [listed.id for listed in board_listing(expected(*runs), wanted, NOW)]
        right = right[offset : offset + limit if limit else None]
        for space_no in (None, no):
            listed = await store.list_reports(wanted, limit=limit, offset=offset, now_s=NOW, space_no=space_no)
            assert [item.id for item in listed] == right
        assert await store.list_reports(wanted, limit=limit, now_s=NOW, space_no=no + 1) == []


async def test_a_listed_report_says_what_was_signed(tmp_path: Path) -> None:
    run = entries("ana", [filed(title="Tiroteo", text="junto al río", tags=("a", "b"))])
    async with opened(tmp_path / "s") as (store, no):
        await store.publish(no, run, Everybody())  # listed within the same commit
        (listed,) = await store.list_reports(Filter(), limit=50, now_s=NOW)
        (right,) = expected(run)
        assert (listed.id, listed.space, listed.author) == (right.id, right.space, right.author)
        assert (listed.lamport, listed.filed_s, listed.report) == (right.lamport, right.filed_s, right.report)
        assert store.counters(no).pending == 0


async def test_indexing_in_any_portions_lists_everything_once(tmp_path: Path) -> None:
    runs = [entries("ana", [filed() for _ in range(7)], number=number) for number in range(30)]
    async with opened(tmp_path / "s") as (store, no):
        for run in runs:
            await store.commit_runs(no, [run], Everybody())
        left = 210
        for portion in (1, 5, 8, 100):
            left -= portion
            assert await store.index_some(portion) == left == store.counters(no).pending
        await store.commit_runs(no, [entries("ana", [filed()], after=runs[0])], Everybody())
        assert await store.index_some() == 0
        listed = await store.list_reports(Filter(), limit=0, now_s=NOW)
        assert len({item.id for item in listed}) == len(listed) == 211


async def test_what_is_no_report_is_counted_as_read_and_shown_nowhere(tmp_path: Path) -> None:
    void = entries("ana", [b"", bytes(16) + b"\xff", filed()[:-1]])
    unknown = entries("bea", [filed()], kind=200)
    absent = without_payloads(entries("eva", [filed()]), 0)
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [void, unknown, absent], Everybody())
        assert await store.index_some() == 0
        assert await store.list_reports(Filter(), limit=0, now_s=NOW) == []


# Search


async def test_a_search_finds_all_words_without_regard_to_accents_and_case(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, no):
        texts = {
            "a": filed(title="Balacera en MATAMOROS", text="cerca del puente viejo", tags=("río-bravo",)),
            "b": filed(title="Bloqueo", place_name="Puente Río Bravo"),
            "c": filed(title="Todo tranquilo", text="nada nuevo en matamoros"),
        }
        runs = {name: entries(name, [payload]) for name, payload in texts.items()}
        await store.commit_runs(no, list(runs.values()), Everybody())
        await store.index_some()
        names = {run.ids[0]: name for name, run in runs.items()}

        async def found(words: str) -> str:
            return "".join(sorted(names[item.id] for item in await store.search(words, limit=0, now_s=NOW)))

        assert await found("matamoros") == "ac"
        assert await found("MÁTAMOROS puente") == "a"
        assert await found("puente") == "ab"
        assert await found("mata*") == "ac"
        assert await found("mata") == ""
        assert await found("rio bravo") == "ab"
        assert await found("río-bravo") == "ab"
        assert await found("puente rio br*") == "ab"
        assert await found("") == ""
        assert await found("*") == ""
        assert await found("nada OR balacera") == ""
        assert await found("¿puente?") == "ab"


@pytest.mark.parametrize(
    "words",
    [
        '"', '""', "a OR", "NEAR(a b)", "title:a", "-a", "a AND NOT b", "((((a+)+)+)+)", "%_%_%", "a^b", "{a b}:c",
        "*a", "a**", "\0", "a\0b", "'; DROP TABLE entry; --", "\ud800", "\u202e", "🙂" * 50, "a" * 100_000,
        '"a" "b', "a+b", "^a", "\\",
    ],
)  # fmt: skip
async def test_no_search_is_ever_read_as_syntax(tmp_path: Path, words: str) -> None:
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [entries("ana", [filed(title="zzz")])], Everybody())
        await store.index_some()
        assert await store.search(words, limit=50, now_s=NOW) == []


async def test_a_search_of_very_many_words_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as (store, _):
        with pytest.raises(InputRefused):
            await store.search("a " * 10_000, limit=50, now_s=NOW)


_words = st.lists(st.sampled_from(["río", "rio", "puente", "Puente", "puentes", "ñandú", "a", "¡alto!"]), max_size=4)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(_words, min_size=1, max_size=8), asked=_words, prefix=st.booleans(), rare=st.sampled_from([0, 1000])
)
async def test_a_search_finds_what_a_plain_reading_finds(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], asked: list[str], prefix: bool, rare: int
) -> None:
    listing.RARE = rare
    runs = [
        entries("ana", [filed(text=" ".join(words))], number=number, times=[NOW // 900 + number % 2])
        for number, words in enumerate(texts)
    ]
    wanted = [_folded(word) for word in asked]

    def matches(words: list[str]) -> bool:
        held = {_folded(word) for word in words} | {"bloqueo"}
        if not prefix:
            return all(word in held for word in wanted)
        return all(word in held for word in wanted[:-1]) and any(word.startswith(wanted[-1]) for word in held)

    right = {run.ids[0] for run, words in zip(runs, texts, strict=True) if asked and matches(words)}
    async with opened(tmp_path_factory.mktemp("s") / "s", inline=True) as (store, no):
        await store.commit_runs(no, runs, Everybody())
        await store.index_some()
        found = await store.search(" ".join(asked).strip("!") + "*" * prefix, limit=0, now_s=NOW, space_no=no)
        assert {item.id for item in found} == right
        ordered = board_listing([item for item in expected(*runs) if item.id in right], Filter(), NOW)
        assert [item.id for item in found] == [item.id for item in ordered]


def _folded(word: str) -> str:
    letters = unicodedata.normalize("NFD", word.strip("¡!").lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


# By id


async def test_a_report_is_found_by_any_prefix_of_its_id(tmp_path: Path) -> None:
    run = entries("ana", [filed() for _ in range(600)])
    async with opened(tmp_path / "s") as (store, no):
        await store.commit_runs(no, [run], Everybody())
        await store.index_some()
        id = run.ids[300].hex()
        for length in (6, 7, 8, 15, 16, 17, 33, 63, 64):
            assert [item.id for item in await store.find(id[:length])] == [run.ids[300]]
        assert [item.id for item in await store.find(id.upper()[:10])] == [run.ids[300]]
        assert len(await store.find(id[:1])) == 2
        assert await store.find(id[:40] + ("0" if id[40] != "0" else "1")) == []


# Calls that must not happen twice


async def test_a_call_with_the_same_mark_publishes_once(tmp_path: Path) -> None:
    run = entries("ana", [filed()])
    async with opened(tmp_path / "s") as (store, no):
        assert await store.once(b"t" * 16) is None
        await store.publish(no, run, Everybody(), once=Once(b"t" * 16, lambda run: {"id": run.ids[0].hex()}))
        assert await store.once(b"t" * 16) == {"id": run.ids[0].hex()}
        assert await store.once(b"u" * 16) is None


async def test_imported_lines_are_known_again(tmp_path: Path) -> None:
    marks = [bytes([n]) * 16 for n in range(5)]
    async with opened(tmp_path / "s") as (store, no):
        run = entries("ana", [filed(), filed()])
        await store.publish(no, run, Everybody(), marks=marks[:2])
        assert await store.unimported(no, marks) == marks[2:]
        with pytest.raises(Exception, match="not taken"):
            await store.publish(no, run, Everybody(), marks=marks[2:])
        assert await store.unimported(no, marks) == marks[2:]


async def test_damaged_reports_are_left_out_of_a_list(tmp_path: Path) -> None:
    run = entries("ana", [filed(title=f"{number}") for number in range(3)])
    async with opened(tmp_path / "s") as (store, no):
        await store.publish(no, run, Everybody())
        await store.write(
            lambda db: db.execute("UPDATE entry SET payload = zeroblob(size) WHERE id = ?", (run.ids[1],)), durable=True
        )
        assert await _titles(store) == ["0", "2"]


async def _titles(store: Store) -> list[str]:
    return sorted(item.report.title for item in await store.list_reports(Filter(), limit=0, now_s=NOW))
