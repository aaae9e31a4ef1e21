"""What a command ends with: the exit codes that scripts rely on, and the one error that carries a sentence to a person.

Both the daemon and the thin client import this, so it stands on nothing but the table of sentences. Across the control
socket the error travels as key and fields; the client says it in the language of the person who asked.
"""

from enum import IntEnum

from p2pnode.sentences import TABLE, say


class Exit(IntEnum):
    """Documented exit codes of every command."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    NO_DAEMON = 3
    NOT_FOUND = 4  # or ambiguous
    REFUSED = 5  # what a person or a file gave cannot be taken
    LOCKED = 6  # or wrong passphrase
    TIMED_OUT = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot be done: `key` names the sentence, `fields` fill it. Never carries a secret."""

    def __init__(self, code: int, key: str, /, **fields: str | int | None) -> None:
        super().__init__(key)
        self.code = Exit(code)
        self.key = key
        self.fields = fields

    @property
    def message(self) -> str:
        """The sentence for people."""
        return say(self.key, **self.fields)


def refused(field: str, reason: str, limit: int | str | None) -> CommandError:
    """The protocol's InputRefused as a sentence: its own for this field and reason, else the reason's."""
    keys = (f"refused.{field}.{reason}", f"refused.{reason}", "refused.other")
    key = next(key for key in keys if key in TABLE)
    return CommandError(Exit.REFUSED, key, field=field.replace("_", "-"), reason=reason, limit=limit)


def innermost(error: BaseException) -> BaseException:
    """What a nursery's group of one is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
