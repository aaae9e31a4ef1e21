"""`p2pnode report` and `p2pnode search`: file reports, bring them in, find them, read them."""

from __future__ import annotations

import os

from p2pnode import arguments, asking, client, display
from p2pnode.commands import bring
from p2pnode.failures import CommandError, Exit, refused
from p2pnode.sentences import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from typing import Any

    from p2pnode.arguments import Parser

PAGE = 500  # reports asked for at once: an answer stays below a megabyte, and the daemon serves others in between
LIMIT_DEFAULT = 50


# new


def declare_new(parser: Parser) -> None:
    """Options of `report new`; what is not given is asked for on a terminal."""
    parser.option("--category", metavar="C")
    parser.option("--title", metavar="T|-")
    parser.option("--text", metavar="T|-")
    parser.option("--place", metavar="LAT,LON|GEOHASH")
    parser.option("--precision", metavar="N", type=int)
    parser.option("--place-name", metavar="P")
    parser.option("--observed", metavar="ISO[/ISO]|unknown")
    parser.option("--basis", metavar="B")
    parser.option("--severity", metavar="N", type=int)
    parser.option("--state", metavar="S")
    parser.option("--lang", metavar="L")
    parser.option("--updates", metavar="ID")
    parser.option("--expires", metavar="D")
    parser.option("--tag", metavar="T", action="append")
    parser.option("--space", metavar="S")


def new(args: Namespace) -> int:
    """Sign and keep a report. A position becomes its cell here: the exact one goes no further than this process."""
    _fill_in(args)
    if args.place is not None:
        cell = _cell(args.place, args.precision)
        display.talk(say("report.place", cell=cell, size=_size(cell)))
        args.place = f"geohash:{cell}"
    options = ("category", "title", "text", "place", "place_name", "observed", "basis", "severity", "state", "lang")
    params = arguments.params(args, *options, "expires", "tag", "space")
    params["once"] = os.urandom(16).hex()
    with client.Daemon(arguments.home(args)) as daemon:
        if args.updates is not None:  # the beginning of an id becomes the whole
            params["updates"] = daemon.call("report.show", {"id": args.updates})["id"]
        told = daemon.call("report.new", params)
    display.result(args.json, told, [say("report.filed", id=told["id"][:8])])
    return Exit.DONE


def _fill_in(args: Namespace) -> None:
    """Texts from standard input or the terminal. `-` for both means: the first line is the title."""
    if args.title == "-" and args.text == "-":
        args.title, _, args.text = asking.whole_input().partition("\n")
    elif "-" in (args.title, args.text):
        content = asking.whole_input().rstrip("\n")
        args.title, args.text = (content if value == "-" else value for value in (args.title, args.text))
    if (args.category is None or args.title is None) and not asking.on_terminal():
        raise CommandError(Exit.WRONG_USE, "report.incomplete")
    if args.category is None:
        args.category = asking.answered(say("report.ask_category")).strip()
    if args.title is None:
        args.title = asking.answered(say("report.ask_title"))
        if args.text is None:
            args.text = asking.lines_answered(say("report.ask_text"))


def _cell(place: str, precision: int | None) -> str:
    from protocol import geohash
    from protocol.errors import InputRefused

    try:
        return geohash.parse_place(place, None if precision is None else geohash.parse_precision(precision))
    except InputRefused as error:
        raise refused(error.field, error.reason, error.limit) from None


def _size(cell: str) -> str:
    from protocol import geohash

    return "{:.2g} × {:.2g} km".format(*geohash.size_km(cell))


# list, search, show


def declare_list(parser: Parser) -> None:
    """Options of `report list`."""
    parser.option("--category", metavar="C")
    parser.option("--since", metavar="ISO")
    parser.option("--until", metavar="ISO")
    parser.option("--near", metavar="LAT,LON")
    parser.option("--radius", metavar="KM", type=float)
    parser.option("--tag", metavar="T")
    parser.option("--status", metavar="S")
    _declare_page(parser)
    parser.option("--offset", metavar="N", type=_count, default=0)


def list_reports(args: Namespace) -> int:
    """The newest first."""
    params = arguments.params(args, "category", "since", "until", "near", "radius", "tag", "status", "space")
    return _listed(args, "report.list", params, args.offset)


def declare_search(parser: Parser) -> None:
    """Options of `search`."""
    parser.option("words", metavar="WORDS|-", nargs="+")
    _declare_page(parser)


def search(args: Namespace) -> int:
    """Reports with all the words, the newest first."""
    args.words = asking.given_or_read(" ".join(args.words))
    return _listed(args, "search", arguments.params(args, "words", "space"), 0)


def declare_show(parser: Parser) -> None:
    """Options of `report show`."""
    parser.option("id", metavar="ID")


def show(args: Namespace) -> int:
    """One report, whole."""
    with client.Daemon(arguments.home(args)) as daemon:
        told = daemon.call("report.show", {"id": args.id})
    display.result(args.json, told, page_lines(told))
    return Exit.DONE


def _declare_page(parser: Parser) -> None:
    parser.option("--limit", metavar="N", type=_count, default=LIMIT_DEFAULT)
    parser.option("--space", metavar="S")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise CommandError(Exit.WRONG_USE, "usage.negative")
    return count


def _listed(args: Namespace, method: str, params: dict[str, Any], offset: int) -> int:
    with client.Daemon(arguments.home(args)) as daemon:
        found = list(_pages(daemon, method, params, args.limit, offset))
    display.result(args.json, found, row_lines(found) if found else [say("report.none")])
    return Exit.DONE


def _pages(daemon: client.Daemon, method: str, params: dict[str, Any], limit: int, offset: int) -> Iterator[Any]:
    """Reports from `offset` on, `limit` of them or all. One that arrives meanwhile pushes others to the next page."""
    seen: set[str] = set()
    while True:
        count = min(PAGE, limit - len(seen)) if limit else PAGE
        page = daemon.call(method, {**params, "limit": count, "offset": offset})
        yield from (report for report in page if report["id"] not in seen)
        seen.update(report["id"] for report in page)
        offset += len(page)
        if len(page) < count or (limit and len(seen) >= limit):
            return


def row_lines(reports: list[Any], *, heads: bool = True) -> list[str]:
    """Reports, one a row; the title comes last and gives way."""
    names = say("report.heads").split("|")
    rows = [
        [
            report["id"][:8],
            display.clean(report["filed"])[:16].replace("T", " "),
            status_words(report),
            display.clean(report["category"]),
            display.clean(report["place"] or "-"),
            display.fit(display.quoted(report["author"]["name"]), 20) + " " + report["author"]["key"][:8],
            display.quoted(report["title"]),
        ]
        for report in reports
    ]
    return display.table(names, rows, display.page_columns())[0 if heads else 1 :]


def status_words(report: Any) -> str:
    """Status and flags: never a bare tick."""
    return " ".join([report["status"], *report["flags"]])


def page_lines(report: Any) -> list[str]:
    """One report with everything it says; what others wrote is quoted or stands behind a bar."""
    columns = display.page_columns()
    observed, place, author = report["observed"], report["place"], report["author"]
    severity = say("report.severity", severity=report["severity"]) if report["severity"] is not None else None
    marks = [status_words(report), report["category"], severity, report["state"], report["basis"]]
    facts = [
        ("report.id", report["id"]),
        ("report.observed", f"{_moment(observed['from'])} – {_moment(observed['to'])}" if observed else None),
        ("report.filed_at", _moment(report["filed"])),
        ("report.cell", f"{display.clean(place)} ({_size(place)})" if place else None),
        ("report.place_name", display.quoted(report["place_name"]) if report["place_name"] else None),
        ("report.author", f"{display.quoted(author['name'])} · {say('report.key', key=author['key'][:16])}"),
        ("report.tags", " ".join(map(display.quoted, report["tags"])) or None),
        ("report.lang", display.clean(report["lang"]) if report["lang"] else None),
        ("report.space", report["space"][:8]),
    ]
    named = [(say(key), value) for key, value in facts]
    wide = max(display.width(name) for name, _ in named)
    head = " · ".join(display.clean(mark) for mark in marks if mark and mark != "unknown")
    lines = [head, "", *display.block(report["title"], columns)]
    if report["text"]:
        lines += ["", *display.block(report["text"], columns)]
    return [*lines, "", *(f"{name.ljust(wide)}  {value}" for name, value in named if value is not None)]


def _moment(rfc3339: str) -> str:
    return display.clean(rfc3339)[:16].replace("T", " ") + " UTC"


VERBS: dict[str, tuple[Callable[[Parser], None], Callable[[Namespace], int]]] = {
    "new": (declare_new, new),
    "list": (declare_list, list_reports),
    "show": (declare_show, show),
    "import": (bring.declare, bring.bring_in),
    "search": (declare_search, search),
}
