"""Daemon: the composition root. Opens everything, owns the nursery, closes everything.

settings, key -> socket -> store -> spaces -> node -> its tasks, control        and back, in that order
"""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from p2pnode import control, events, methods
from p2pnode.ambient import Ambient, SystemAmbient
from p2pnode.complaint import understood
from p2pnode.config import Settings
from p2pnode.node import Node
from p2pnode.space import Space
from p2pnode.store import Store
from protocol.limits import Limits

SWITCH_SECONDS = 0.0005  # the writer's thread hands the interpreter over at least this often


async def run(
    settings: Settings,
    master_key: bytes,
    *,
    ready: Callable[[], None],
    ambient: Ambient | None = None,
    limits: Limits | None = None,
) -> None:
    """Runs a daemon until SIGTERM, SIGINT or a `stop` call. `ready` is called once it answers."""
    ambient = ambient or SystemAmbient()
    sys.setswitchinterval(SWITCH_SECONDS)
    events.start(str(settings.log) if settings.log is not None else None)
    listener = control.open_listener(settings.socket)
    with understood():
        store = Store.open(settings.store, master_key, create=False, on_error=events.log)
    try:
        with understood():
            rows = await store.load_spaces()
            spaces = [await Space.load(store, row, ambient) for row in rows]
        async with trio.open_nursery() as nursery:
            node = Node(settings, store, spaces, ambient, limits or Limits(), nursery)
            await node.listening.open()
            node.dial_known()
            await nursery.start(_stop_on_signal, node)
            for task in (node.index, node.grant, node.sync.run, node.listening.run, node.lan.run, node.discover):
                nursery.start_soon(task)
            nursery.start_soon(partial(control.serve, listener, *methods.of(node), note=events.log))
            for space in spaces:
                node.exchange.members_changed(space)
            events.log("node.started", spaces=len(spaces))
            ready()
            await node.stopping.wait()
            await node.goodbye()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await store.close()
            with suppress(OSError):
                settings.socket.unlink()
            events.log("node.stopped")


async def _stop_on_signal(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            node.stopping.set()
