"""The command line: finds the command, runs it, turns whatever happens into one sentence and an exit code.

Only what the chosen command needs is imported; `status` must feel instant.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p2pnode.failures import CommandError


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from p2pnode import commands
    from p2pnode.failures import CommandError, Exit

    words = sys.argv[1:] if argv is None else argv
    try:
        return commands.run(words)
    except CommandError as error:
        _complain(words, error)
        return error.code
    except KeyboardInterrupt:
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        _abandon_stdout()
        return Exit.FAILED
    except OSError as error:
        _complain(words, CommandError(Exit.FAILED, "system.failed", reason=error.strerror or type(error).__name__))
        return Exit.FAILED
    except Exception as bug:
        if _wants_traceback():
            raise
        _complain(words, CommandError(Exit.FAILED, "system.bug", error=type(bug).__name__))
        return Exit.FAILED


def _complain(words: list[str], error: CommandError) -> None:
    from p2pnode import display

    if "--json" in words:
        print(display.json_text({"error": {"code": int(error.code), "message": error.message}}), file=sys.stderr)
    else:
        display.talk(f"p2pnode: {error.message}")


def _abandon_stdout() -> None:
    """Whatever is still buffered goes nowhere, instead of failing again at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wants_traceback() -> bool:
    import os

    return bool(os.environ.get("P2PNODE_TRACEBACK"))
