"""Joining: the short session in which an invitation becomes a membership.

    joiner                                       any member that holds the invitation's entry
    handshake under the join secret      -->     known, not expired, not used up?
    claim: its first entry, signed       -->     COMMIT, and note who claimed
                                         <--     the secrets of the newest epochs
    COMMIT
    joined                               -->     COMMIT: the invitation is used up

Both sides commit before they speak, so a cut at any point can be tried again by the same joiner.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pnode.exchange import Exchange
from p2pnode.space import Space
from protocol.connection import Connection
from protocol.errors import RemoteProtocolError
from protocol.events import Established, Event
from protocol.log import Run, Verdict, prove_untrusted
from protocol.membership import Answer, may_answer
from protocol.messages import Joined, RunMessage, Welcome
from protocol.statement import Claim, Statement


class Host:
    """The member's side: takes one claim. Which invitation it is on, the claim says; its join secret must be ours."""

    def __init__(
        self,
        exchange: Exchange,
        connection: Connection,
        space: Space,
        *,
        now: Callable[[], float],
        close: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._store = exchange.store
        self._connection = connection
        self._space = space
        self._now = now
        self._close = close
        self._taken: Claim | None = None

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case RunMessage(unproven):
                    await self._take(unproven)
                case Joined():
                    if self._taken is None:
                        raise RemoteProtocolError("joined before welcome")
                    await self._store.acknowledge_invite(self._taken.admission)
                    self._close()
                case _:
                    pass

    async def serve(self) -> bool:
        return False

    async def _take(self, run: Run) -> None:
        said = self._space.claim_in(prove_untrusted(run))
        match said:
            case Statement(author=author, body=Claim(admission) as claim) if self._taken is None:
                pass
            case _:
                raise RemoteProtocolError("not a claim")
        known = self._space.members.invites.get(admission)
        secret = self._connection.secret
        if known is None or secret is None or known.invite.join_secret != secret.secret:
            raise RemoteProtocolError("claim on another invitation than the session's")
        use = self._store.invite_uses().get(admission)
        if may_answer(self._space.members, admission, self._now(), use, author) is not Answer.YES:
            raise RemoteProtocolError("invitation used up")
        if not await self._store.answer_invite(admission, author, self._now()):
            raise RemoteProtocolError("invitation claimed by somebody else at this moment")
        (outcome,) = await self._exchange.take(self._space, [run])
        if outcome.verdict not in (Verdict.EXTENDS, Verdict.KNOWN):
            raise RemoteProtocolError("claim not taken")
        self._taken = claim
        self._connection.send(Welcome(self._space.epochs))


class Guest:
    """The joiner's side: shows its claim, stores its welcome. `done` is set when both have happened."""

    def __init__(
        self,
        connection: Connection,
        claim: Run,
        store_welcome: Callable[[Sequence[bytes]], Awaitable[None]],
        close: Callable[[], None],
    ) -> None:
        self.done = trio.Event()
        self._connection = connection
        self._claim = claim
        self._store_welcome = store_welcome
        self._close = close

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Established():
                    self._connection.send(RunMessage(self._claim))
                case Welcome(epochs):
                    if not epochs or self.done.is_set():
                        raise RemoteProtocolError("welcome without secrets, or twice")
                    await self._store_welcome(epochs)
                    self._connection.send(Joined())
                    self.done.set()
                    self._close()
                case _:
                    pass

    async def serve(self) -> bool:
        return False
