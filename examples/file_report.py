"""Files one report over the control socket, so that a retry can never publish it twice.

python examples/file_report.py ~/.local/share/p2pnode/control.sock
"""

import json
import secrets
import socket
import sys

call = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "report.new",
    "params": {
        "category": "all-clear",
        "title": "Todo tranquilo en la plaza",
        "basis": "saw",
        "place": "geohash:9g3qx",
        "once": secrets.token_hex(16),  # the daemon remembers it for a day, with the answer
    },
}
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
    daemon.connect(sys.argv[1])
    daemon.sendall(json.dumps(call).encode() + b"\n")
    print(json.loads(daemon.makefile(encoding="utf-8").readline()))
