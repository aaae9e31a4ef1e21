"""Importing: reports out of other people's files, and out of the options that a person or a program gave.

A reader takes a binary file and yields, line by line and never holding more than one record, either a Record that can
be published as it stands or a Refused that says which line, which field and why. Where the file itself is at fault (no
such columns, a quote that never closes) it raises InputRefused: then whoever imports keeps nothing of that file.

A Record's `mark` identifies the source record, so that importing a file twice adds nothing. Nobody else's judgement
becomes ours: what the source calls verified is kept as a tag. A position becomes its cell here, before anything else
sees it; not even the mark is made of it.

Ushahidi's CSV has no limits like ours. Texts stay as they are, byte for byte. A title or place name that is too long is
cut between two characters and marked with an ellipsis, and the whole of it then leads the text. Its categories become
tags, without their number where they are too long, then cut; the one that comes first in `report.CATEGORIES` becomes
ours. A time to the minute becomes the 15 minutes that begin with it.
"""

from p2pnode.importing.from_json import jsonl
from p2pnode.importing.from_ushahidi import ushahidi
from p2pnode.importing.lines import BOM
from p2pnode.importing.options import parse_timezone, report_of
from p2pnode.importing.record import Record, Refused

__all__ = ["Record", "Refused", "guess_format", "jsonl", "parse_timezone", "report_of", "ushahidi"]


def guess_format(head: bytes) -> str:
    """`jsonl` or `ushahidi`, by the first bytes of a file."""
    return "jsonl" if head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") else "ushahidi"
