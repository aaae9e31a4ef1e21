"""Spaces: found one, list them, invite into one, join one."""

from __future__ import annotations

from collections.abc import Mapping
from random import SystemRandom
from typing import TYPE_CHECKING

import trio

from p2pnode.calling import CallFailed, RelayRefused
from p2pnode.control import Handler, Send, Stream
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked, space_of
from p2pnode.methods.daemon import space_json
from p2pnode.methods.paths import why
from p2pnode.sentences import say
from protocol import invite
from protocol.errors import InputRefused
from protocol.report import parse_duration
from protocol.statement import Role

if TYPE_CHECKING:
    from p2pnode.node import Node

INVITE_EXPIRES = "24h"
JOIN_SECONDS = 60.0


class Spaces:
    """Methods `space.*`, `invite.create`, `join`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.calls: Mapping[str, Handler] = {
            "space.create": self.create,
            "space.list": self.list_spaces,
            "invite.create": self.invite,
        }
        self.streams: Mapping[str, Stream] = {"join": self.join}

    async def create(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        name, pen = asked.text("name"), asked.text("pen", random_pen_name())
        asked.done()
        space = await self._node.found(name, pen)
        return {"id": space.id.hex()}

    async def list_spaces(self, params: dict[str, object]) -> object:
        Asked(params).done()
        return [await space_json(self._node, space) for space in self._node.spaces.values()]

    async def invite(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        space = space_of(self._node.spaces, asked)
        given = [invite.parse_address(text) for text in asked.list("address") if type(text) is str]
        seconds = parse_duration(asked.text("expires", INVITE_EXPIRES), "expires")
        by_relay = asked.flag("by_relay")
        asked.done()
        relays = self._node.outposts.of(space)
        if by_relay and not relays:
            raise CommandError(Exit.FAILED, "invite.no_relay")
        # a scope means nothing on another machine
        listening = [address for address in self._node.listening.addresses if "%" not in address.host]
        behind_proxy = self._node.settings.proxy is not None  # then listening is only for an onion service beside us
        addresses = given or ([] if behind_proxy else listening)
        if not addresses and not by_relay:
            raise CommandError(Exit.FAILED, "invite.behind_proxy" if behind_proxy else "invite.no_address")
        if len(addresses) > invite.ADDRESSES_MAX:
            raise InputRefused("address", "too-many", invite.ADDRESSES_MAX)
        if not space.members.is_curator(space.author):
            raise CommandError(Exit.REFUSED, "invite.not_allowed")
        try:
            text = await self._node.invite(space, addresses, seconds, Role.WRITER, by_relay=by_relay)
        except (CallFailed, RelayRefused) as error:
            raise CommandError(Exit.FAILED, "invite.relay_failed", reason=why(error)) from error
        return {"invite": text}

    async def join(self, params: dict[str, object], send: Send) -> object:
        asked = Asked(params)
        invitation = invite.decode(asked.text("invite"))
        pen = asked.text("name", random_pen_name())
        seconds = asked.number("timeout", JOIN_SECONDS)
        by_relay = asked.flag("by_relay")
        asked.done()
        with trio.move_on_after(seconds):
            space = await self._node.newcomer.join(
                invitation,
                pen,
                lambda key: send({"key": key, "fields": {}}),
                by_relay=by_relay,
            )
            return {"id": space.id.hex(), "name": space.name}
        raise CommandError(Exit.TIMED_OUT, "join.timeout")


def random_pen_name() -> str:
    """Two random words: a person who gives no name is never shown under the name of a login."""
    draw = SystemRandom()
    return f"{draw.choice(say('pen.adjectives').split())} {draw.choice(say('pen.nouns').split())}"
