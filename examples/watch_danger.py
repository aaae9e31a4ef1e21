"""Prints a line for every report of danger as it comes: any program can talk to the daemon like this.

    python examples/watch_danger.py ~/.local/share/p2pnode/control.sock

The control socket speaks JSON-RPC 2.0, one object a line. `watch` tells first that it watches, then a report at a time.
"""

import json
import socket
import sys

CALM = {"all-clear", "aid", "found", "rumour", "other"}

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
    daemon.connect(sys.argv[1])
    daemon.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {}}).encode() + b"\n")
    for line in daemon.makefile(encoding="utf-8"):
        report = json.loads(line).get("params", {})
        if report.get("category", "all-clear") not in CALM:
            # ascii() keeps control and direction marks of strangers off the terminal
            print(report["filed"], report["status"], report["category"], report["place"], ascii(report["title"]))
