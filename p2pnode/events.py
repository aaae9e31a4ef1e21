"""Events: what the daemon writes down about itself. Stable names, one line each, fields without any content.

A line never holds a text, a name, a key, an address or an id of anybody: a seized log must tell nothing.
"""

import logging
from logging.handlers import RotatingFileHandler

LOG_SIZE_MAX = 1024 * 1024  # bytes; one older file of the same size is kept, however long an attack lasts

_LOG = logging.getLogger("p2pnode")


def log(name: str, **fields: str | int) -> None:
    """Writes one event; values are slugs of ours and numbers."""
    _LOG.info("%s %s", name, " ".join(f"{key}={value}" for key, value in fields.items()))


def start(path: str | None) -> None:
    """Sends events to a file, or nowhere."""
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        handler = RotatingFileHandler(path, maxBytes=LOG_SIZE_MAX, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    _LOG.handlers[:] = [handler]
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
