"""Reception: what a fresh link turns into, once the handshake has shown who is there.

    mode member   a Session of its space, unless the same node is here already
    mode join     the Host of one invitation
    nobody        a stranger: no byte goes back

Two nodes may dial each other at the same instant. Of two sessions between the same nodes the one whose initiator has
the smaller (static key, start nonce) stays; both ends compute the same. A second one from the same initiator, or from
a node that has started anew, replaces the first, which is then a leftover of a broken network.
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from p2pnode.ambient import Ambient
from p2pnode.exchange import Exchange
from p2pnode.joining import Host
from p2pnode.link import Conversation, Link
from p2pnode.session import Session
from p2pnode.space import Space
from protocol.connection import Connection
from protocol.events import Established, Event
from protocol.handshake import Opened, RemoteEnd
from protocol.mask import Mode, SessionSecret


class Register:
    """Who is connected: at most one session for each (space, remote static key)."""

    def __init__(self, exchange: Exchange) -> None:
        self.sessions: dict[tuple[bytes, bytes], tuple[Session, Link[Connection]]] = {}
        self.moved = trio.Event()  # set, and replaced, whenever somebody comes or goes
        self._exchange = exchange

    def enter(self, session: Session, link: Link[Connection]) -> bool:
        """Whether the session stays; the one that it replaces is dropped."""
        key = (session.space.id, session.remote.static)
        other = self.sessions.get(key)
        if other is not None:
            mine, theirs = _initiator_of(session), _initiator_of(other[0])
            same_start = session.remote.start_nonce == other[0].remote.start_nonce
            if same_start and theirs < mine:
                return False
            self.leave(other[0])
            other[1].drop("duplicate")
        self.sessions[key] = (session, link)
        self._exchange.sessions.add(session)
        self._move()
        return True

    def leave(self, session: Session) -> None:
        """The session is over. Does nothing when it has been replaced."""
        self._exchange.sessions.discard(session)
        key = (session.space.id, session.remote.static)
        if key in self.sessions and self.sessions[key][0] is session:
            del self.sessions[key]
            self._move()

    def _move(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


def _initiator_of(session: Session) -> tuple[bytes, bytes]:
    local, remote = session.space.local, session.remote
    if session.connection.initiator:
        return (local.static.public, local.start_nonce)
    return (remote.static, remote.start_nonce)


class Reception:
    """The conversation of a link before it is known to be anything else, and the door to what it becomes."""

    def __init__(
        self,
        exchange: Exchange,
        register: Register,
        spaces: Mapping[bytes, Space],
        ambient: Ambient,
        on_met: Callable[[RemoteEnd], None],
    ) -> None:
        self.session: Session | None = None
        self._on_met = on_met
        self._exchange = exchange
        self._store = exchange.store
        self._register = register
        self._spaces = spaces
        self._ambient = ambient
        self._link: Link[Connection] | None = None
        self._inner: Conversation | None = None
        self._digest: bytes | None = None

    def attach(self, link: Link[Connection], digest: bytes | None = None) -> None:
        """The link that this is the conversation of; as initiator, also the digest that its message 3 carries."""
        self._link = link
        self._digest = digest

    def secrets(self) -> list[SessionSecret]:
        """Every secret under which somebody may talk to us now."""
        now = self._ambient.now()
        found = [space.secret for space in self._spaces.values()]
        for space in self._spaces.values():
            open_now = space.join_secrets(now, self._store.invite_uses())
            found += [SessionSecret(space.id, Mode.JOIN, secret) for secret in open_now]
        return found

    async def handle(self, events: Sequence[Event]) -> None:
        for index, event in enumerate(events):
            if self._inner is not None:
                return await self._inner.handle(events[index:])
            match event:
                case Opened():
                    await self._opened(event)
                case Established(remote):
                    self._on_met(remote)
                    await self._established()
                case _:
                    pass
        return None

    async def serve(self) -> bool:
        return self._inner is not None and await self._inner.serve()

    def over(self) -> None:
        """The link has ended."""
        if self.session is not None:
            self._register.leave(self.session)

    async def _opened(self, opened: Opened) -> None:
        connection = self._connection
        space = self._spaces.get(opened.secret.space)
        if space is None or opened.secret not in self.secrets():  # an invitation may have been used meanwhile
            return connection.refuse()
        if not await self._store.remember_handshake(opened.replay_tag, opened.week):
            return connection.refuse()
        if opened.secret.mode is Mode.MEMBER:
            self._digest = await self._store.digest(space.no)
        connection.accept(space.local, self._digest)
        return None

    async def _established(self) -> None:
        connection, link = self._connection, self._link
        assert connection.secret is not None
        assert link is not None
        space = self._spaces.get(connection.secret.space)
        if space is None:
            return link.drop("gone")
        if connection.secret.mode is Mode.JOIN:
            self._inner = Host(self._exchange, connection, space, now=self._ambient.now, close=link.close)
            return None
        assert self._digest is not None
        session = Session(self._exchange, connection, space, self._digest, link.wake)
        if not self._register.enter(session, link):
            return link.drop("duplicate")
        self.session = session
        self._inner = session
        await session.begin()
        return None

    @property
    def _connection(self) -> Connection:
        assert self._link is not None
        return self._link.connection
