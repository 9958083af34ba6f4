"""One PostgreSQL connection with a time limit for everything, and its errors in words for people."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Self

from psycopg import AsyncConnection, Error, IsolationLevel, ProgrammingError, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from krebit_proxy.errors import StoreError
from krebit_proxy.stores.address import secured

# Unless the address says otherwise. Passwords and service files follow libpq's own rules; for TLS see `stores.address`.
_DEFAULTS: Final[dict[str, str | int]] = {
    "connect_timeout": 5,
    "fallback_application_name": "krebit-proxy",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
_VERIFIED: Final = {b"verify-full": "server verified", b"verify-ca": "certificate verified, but not for its name"}
# Prefixes of SQLSTATE codes where waiting does not help: wrong user, no such database, missing right.
_LASTING: Final = ("28", "3D", "3F", "42")


class Session:
    """A connection in autocommit mode, for one statement at a time. Its methods raise psycopg's Error or TimeoutError.

    When a task is cancelled, psycopg asks the server to confirm and waits. A frozen server never confirms. So this
    class cancels nothing. After `patience` seconds it shuts down the socket, and the statement fails.
    """

    def __init__(self, connection: AsyncConnection[tuple[Any, ...]], patience: float) -> None:
        self._connection = connection
        self._patience = patience
        self._gave_up = False

    @classmethod
    async def open(cls, address: str, patience: float) -> Self:
        """Connects to a server that accepts writes, so not to a standby."""
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in conninfo_to_dict(address)}
        async with asyncio.timeout(patience):
            connection = await AsyncConnection.connect(
                make_conninfo(secured(address), **defaults, target_session_attrs="read-write"),
                autocommit=True,
                prepare_threshold=None,  # behind a pooler, the next statement may run in another server process
            )
        try:
            # The generation detects conflicts, so the database's default does not matter. This sends nothing, but it
            # can yield to the loop, so a cancellation can arrive here.
            await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        except BaseException:
            await connection.close()
            raise
        return cls(connection, patience)

    def describe(self) -> str:
        """Server, user, and how the connection is protected, in a few words."""
        connection = self._connection
        version, info = connection.info.server_version, connection.info
        server = f"PostgreSQL {version // 10000}.{version % 10000}, user {info.user}"
        if info.host.startswith(("/", "@")):
            return f"{server}, by a unix socket"
        if not connection.pgconn.ssl_in_use:
            return f"{server}, without TLS"
        mode = next(option.val for option in connection.pgconn.info if option.keyword == b"sslmode")
        return f"{server}, TLS, {_VERIFIED.get(mode or b'', 'server not verified')}"

    async def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with self._bounded(self._patience):
            cursor = await self._connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    @contextlib.asynccontextmanager
    async def transaction(self, *, keep: bool = True) -> AsyncIterator[None]:
        """A transaction. Without `keep`, or after an error, it is rolled back."""
        async with self._bounded(2 * self._patience), self._connection.transaction(force_rollback=not keep):
            yield

    @contextlib.asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        timer = asyncio.get_running_loop().call_later(seconds, self._give_up)
        try:
            yield
        except Error:
            if self._gave_up:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        """Shuts down the socket. psycopg then reports that the server closed the connection."""
        self._gave_up = True
        with contextlib.suppress(OSError, Error):
            shut = socket.socket(fileno=self._connection.fileno())
            try:
                shut.shutdown(socket.SHUT_RDWR)
            finally:
                shut.detach()

    async def close(self) -> None:
        """Ends the connection. The server then frees its locks."""
        await self._connection.close()


def place_of(address: str) -> str:
    """The name of the database for people, without the password. Raises StoreError if the address is invalid."""
    with explained("the database"):
        given = conninfo_to_dict(address)
    return (
        f"database {given.get('dbname') or given.get('service') or '(default)'} at {given.get('host') or 'localhost'}"
    )


@contextlib.contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns every database error into a StoreError that says what to do."""
    try:
        yield
    except TimeoutError:
        raise StoreError(f"No answer from {place} in time.", hint=_LOOK, code="token_unavailable") from None
    except errors.InsufficientPrivilege as error:
        raise StoreError(f"Cannot use {place}: {_reason(error)}.", hint=_RIGHTS) from None
    except ProgrammingError as error:
        if error.sqlstate is None:  # the text could quote the password
            raise StoreError("The setting `store` is not a valid PostgreSQL address.", hint=_ADDRESS) from None
        raise _trouble(place, error) from None
    except (Error, OSError) as error:
        raise _trouble(place, error) from None


_LOOK: Final = "Check that the database is running and can be reached. A running proxy keeps trying."
_ADDRESS: Final = "Write postgresql://user@host:5432/database, with special characters as %xx."
_RIGHTS: Final = (
    "The first use creates the tables krebit_proxy_grant and krebit_proxy_lock. It needs CREATE on the schema. "
    "After that, SELECT, INSERT and UPDATE on both tables are enough."
)


def _trouble(place: str, error: Exception) -> StoreError:
    lasting = (getattr(error, "sqlstate", None) or "").startswith(_LASTING)
    code = "misconfigured" if lasting else "token_unavailable"
    hint = "Check the setting `store` and the log of the database." if lasting else _LOOK
    return StoreError(f"Cannot use {place}: {_reason(error)}.", hint=hint, code=code)


def _reason(error: Exception) -> str:
    """The first line of the message from the server or libpq. It can contain names, but no password."""
    return next(iter(str(error).splitlines()), "").strip().rstrip(".") or type(error).__name__
