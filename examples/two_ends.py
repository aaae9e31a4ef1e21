"""Joins two ends of a session in memory and prints what each side sees: the protocol needs no network to be looked at.

python examples/two_ends.py
"""

import secrets
import time

from protocol.connection import Connection
from protocol.handshake import LocalEnd, Opened
from protocol.limits import Limits
from protocol.mask import Mode, SessionSecret
from protocol.noise import KeyPair

secret = SessionSecret(space=secrets.token_bytes(32), mode=Mode.MEMBER, secret=secrets.token_bytes(32))
ana, beto = (LocalEnd(KeyPair.generate(secrets.token_bytes), secrets.token_bytes(16)) for _ in range(2))
digest = secrets.token_bytes(32)  # both hold the same

world = {"entropy": secrets.token_bytes, "now": 0.0, "wall": time.time(), "limits": Limits()}
dials = Connection.initiate(secret, ana, digest, **world)
answers = Connection.respond([secret], **world)
for speaker, listener, name in [(dials, answers, "answers"), (answers, dials, "dials"), (dials, answers, "answers")]:
    sent = speaker.data_to_send(0.0)
    for event in listener.receive(sent, 0.0):
        print(f"{len(sent):4} bytes -> {name}: {type(event).__name__}")
        if isinstance(event, Opened):
            listener.accept(beto, digest)
print("nothing more to say:", dials.data_to_send(0.0) == answers.data_to_send(0.0) == b"")
