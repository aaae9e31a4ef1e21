"""Make: writes the vectors of the specification, from the naive implementation beside it, the same bytes every time.

    python make.py [DIRECTORY]

Every file holds what is valid, with each step on the way to the bytes, and what is not, with the reason.
"""

import json
import sys
from pathlib import Path

import channel
import frontiers
import logs
import relays
import words

FILES = {
    "entry": logs.entries,
    "run": logs.runs,
    "handshake": channel.handshakes,
    "record": channel.records,
    "digest": frontiers.digests,
    "message": words.messages,
    "payload": words.payloads,
    "invitation": words.invitations,
    "beacon": words.beacons,
    "bundle": relays.bundles,
    "mailbox": relays.mailboxes,
    "relay": relays.relays,
}


def main(directory):
    for name, made in FILES.items():
        text = json.dumps(made(), indent=1, ensure_ascii=False, default=bytes.hex)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
