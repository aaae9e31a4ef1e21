"""Every error this package raises, split by culprit.

    ProtocolError
    ├── LocalProtocolError    we broke the contract: a bug here, fix it
    ├── RemoteProtocolError   the peer broke it: close the link, keep nothing
    └── InputRefused          a person's input cannot be published: say which field and why

What is simply the case (a run that came early, a key nobody holds) is returned, never raised.
"""


class ProtocolError(Exception):
    """Base of all errors of the protocol."""


class LocalProtocolError(ProtocolError):
    """We called the protocol in a way that it does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what no honest node could have sent or relayed.

    The text is for our own log and never goes back to the peer; it holds no byte of what was received.
    """


class InputRefused(ProtocolError):
    """What a person gave cannot be published as it stands.

    `field` is the option or column at fault, `reason` a stable slug such as `too-long`, `limit` the bound
    that was passed where there is one.
    """

    def __init__(self, field: str, reason: str, limit: int | str | None = None) -> None:
        super().__init__(f"{field}: {reason}" + (f" ({limit})" if limit is not None else ""))
        self.field = field
        self.reason = reason
        self.limit = limit
