"""PostgreSQL: the shelf of several relays, which may run on several machines. Needs psycopg, the extra `postgresql`."""

from p2pnode.relay.postgresql.shelf import PostgresqlShelf

__all__ = ["PostgresqlShelf"]
