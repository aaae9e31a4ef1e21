"""Writes everything a node holds into a sealed file, which goes to the daemon as an open descriptor and not as a path.

python examples/export_bundle.py ~/.local/share/p2pnode/control.sock /media/stick/holiday.bin
"""

import json
import os
import socket
import sys

call = {"jsonrpc": "2.0", "id": 1, "method": "bundle.export", "params": {}}
target = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # this program's rights count, not its
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
    daemon.connect(sys.argv[1])
    socket.send_fds(daemon, [json.dumps(call).encode() + b"\n"], [target])
    for line in daemon.makefile(encoding="utf-8"):  # how far it is, several times, then the result
        print(json.loads(line))
        if "id" in json.loads(line):
            break
