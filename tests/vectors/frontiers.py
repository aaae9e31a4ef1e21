"""Cases about frontiers: log keys, buckets, digests, items."""

import naive
from naive import SPACE, cbor, fixed


def digests():
    def log(name, cls, founding=False):
        author, log_id = naive.public(fixed("author " + name)), fixed("log " + name, 8)
        key = naive.log_key(SPACE, author, cls, log_id, founding)
        return {"name": name, "author": author, "class": cls, "log_id": log_id, "founding": founding, "key": key}

    logs = [log("founder", 0, founding=True), log("founder", 0), *(log(f"log {n}", n % 3) for n in range(6))]
    keys = sorted(entry["key"] for entry in logs)
    states = [(key, n + 1, fixed(f"newest {n}"), 0) for n, key in enumerate(keys)]
    near = [(bytes([cls, 7]) + fixed(f"near {cls} {n}", 15), 1, fixed(f"n {n}"), 0) for cls in (0, 2) for n in range(2)]

    def one_changed(**fields):
        key, high, newest, state = states[3]
        changed_state = (key, fields.get("high", high), fields.get("newest", newest), fields.get("state", state))
        return [*states[:3], changed_state, *states[4:]]

    frontiers = [
        ("nothing held", []),
        ("eight logs", states),
        ("one log longer", one_changed(high=99)),
        ("another newest id", one_changed(newest=fixed("other branch"))),
        ("one log forked", one_changed(state=1)),
        ("one log cut", one_changed(state=2)),
        ("one log forked at its first entry", one_changed(high=0, newest=None, state=1)),
        ("one log fewer", states[:-1]),
        ("several logs in one bucket", sorted(near)),
    ]
    session = fixed("handshake hash", 64)
    position = [keys[0], 5, fixed("newest"), 0]
    bad = [
        ("key of 16 bytes", [keys[0][:16], 5, fixed("newest"), 0]),
        ("key of class 3", [b"\x03" + keys[0][1:], 5, fixed("newest"), 0]),
        ("nothing held, but a newest id", [keys[0], 0, fixed("newest"), 0]),
        ("something held, but no newest id", [keys[0], 5, None, 0]),
        ("newest id of 31 bytes", [keys[0], 5, fixed("newest", 31), 0]),
        ("high 2^32", [keys[0], 2**32, fixed("newest"), 0]),
        ("state 3", [keys[0], 5, fixed("newest"), 3]),
        ("state false", [keys[0], 5, fixed("newest"), False]),
        ("three fields", position[:3]),
        ("five fields", [*position, 0]),
    ]
    return {
        "space": SPACE,
        "logs": logs,
        "empty_bucket": naive.bucket([]),
        "valid": [
            {
                "name": name,
                "states": [list(state) for state in held],
                "records": [cbor(list(state)) for state in held],
                "buckets": {
                    str(number): naive.bucket([state for state in held if state[0][1] == number])
                    for number in sorted({state[0][1] for state in held})
                },
                "digest": naive.frontier(SPACE, held),
            }
            for name, held in frontiers
        ],
        "session_key": session,
        "items": [{"state": list(one), "item": naive.item(session, *one)} for one in [*states, *one_changed(state=1)]],
        "invalid": [{"reason": reason, "position": cbor([fields])} for reason, fields in bad],
    }
