"""The grant in PostgreSQL, for any number of machines. Works behind a pooler in transaction mode.

It uses two rows and two connections. The lock is a row that one connection locks in an open transaction. The server
frees it when this connection ends, for any reason. The grant is another row. A second connection writes it, so that
others see an intent at once.

A restart, a failover or an administrator can end the lock while its holder lives. So the holder confirms the lock right
before it spends a token, and every write names the generation that it replaces.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Final

from psycopg import Error, errors

from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreBusyError, StoreConflictError, StoreError
from krebit_proxy.stores import poll_lock
from krebit_proxy.stores.encryption import LONGEST_CONTENT, Sealing
from krebit_proxy.stores.session import Session, explained, place_of

_GRANT_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS krebit_proxy_grant (
        id text PRIMARY KEY,
        generation bigint NOT NULL,
        content text NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now()
    )"""
_LOCK_TABLE: Final = "CREATE TABLE IF NOT EXISTS krebit_proxy_lock (id text PRIMARY KEY)"
# Seconds between two tries for the lock. Waiting in the server's queue would occupy one of the pooler's few
# connections, and the holder of the lock needs one to finish.
_POLL: Final = 0.1
# For the transaction that holds the lock, because the database may have other defaults. If the holder's machine
# vanishes, the server frees the lock after two minutes. That is longer than the longest token request.
_HOLDING: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",  # since PostgreSQL 17
    "idle_in_transaction_session_timeout": "120s",
}


class PostgresStore:
    """See `stores.Store`.

    Args:
        address: a URL or key=value pairs, as libpq accepts them.
        identity: names the grant. One database can hold many.
        sealing: encodes and decodes the grant.
    """

    intent_grace = 10.0
    patience = 5.0  # seconds for one response of the server

    def __init__(self, address: str, identity: str, sealing: Sealing) -> None:
        self._address = address
        self._identity = identity
        self._sealing = sealing
        self._place = place_of(address)
        self._session: Session | None = None
        self._lock: Session | None = None

    def __repr__(self) -> str:
        return f"<PostgresStore {self._place}>"

    async def read(self) -> Grant | None:
        """A content that is longer than any of ours is not fetched. It counts as damaged."""
        async with self._usable() as session:
            statement = (
                "SELECT CASE WHEN octet_length(content) <= %s THEN content ELSE '' END, generation"
                " FROM krebit_proxy_grant WHERE id = %s"
            )
            rows = await session.run(statement, LONGEST_CONTENT, self._identity)
        if not rows:
            return None
        content, generation = rows[0]
        return await asyncio.to_thread(self._sealing.open, content.encode(), self._place, generation=generation)

    async def lock(self, timeout: float) -> None:
        """Takes the lock on a separate connection, and holds it until that connection ends."""
        if self._lock is not None:
            return
        async with self._usable() as session:
            statement = "INSERT INTO krebit_proxy_lock (id) VALUES (%s) ON CONFLICT DO NOTHING"
            await session.run(statement, self._identity)
        busy = StoreBusyError(
            f"Another process has held the lock in {self._place} for more than {timeout:.0f} seconds.",
            hint="Find the krebit-proxy process that hangs, on any machine, and stop it.",
            code="token_unavailable",
        )
        end = asyncio.get_running_loop().time() + timeout
        with explained(self._place):
            holding = await Session.open(self._address, self.patience)
            try:
                await poll_lock(lambda: self._locked(holding), _POLL, end, busy)
            except BaseException:
                await holding.close()
                raise
        self._lock = holding

    async def confirm_lock(self) -> None:
        if not await self._keep_lock():
            raise StoreError(
                f"The proxy lost its lock in {self._place}.",
                hint="The database restarted or closed the connection. The proxy keeps trying.",
                code="token_unavailable",
            )

    async def unlock(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            await lock.close()

    async def write(self, expected: int, grant: Grant) -> None:
        """If the connection breaks before the response, read again to know whether the grant was written."""
        content = (await asyncio.to_thread(self._sealing.seal, grant)).decode()
        async with self._usable() as session:
            await self._keep_lock()  # retries can take long, and the server ends an idle lock
            async with session.transaction():
                await session.run("SET LOCAL synchronous_commit = on")
                if expected == 0:
                    statement = (
                        "INSERT INTO krebit_proxy_grant (generation, content, id)"
                        " SELECT %s, %s, %s WHERE 0 = %s ON CONFLICT DO NOTHING RETURNING 1"
                    )
                else:
                    statement = (
                        "UPDATE krebit_proxy_grant SET generation = %s, content = %s, written_at = now()"
                        " WHERE id = %s AND generation = %s RETURNING 1"
                    )
                done = await session.run(statement, grant.generation, content, self._identity, expected)
        if not done:
            raise StoreConflictError(f"The stored grant does not have generation {expected}.")

    async def probe(self) -> None:
        await asyncio.to_thread(self._sealing.check)
        await self.read()
        await self.lock(timeout=5)
        try:
            async with self._usable() as session, session.transaction(keep=False):
                statement = "INSERT INTO krebit_proxy_grant (id, generation, content) VALUES (%s, 0, '')"
                await session.run(statement, f"{self._identity} probe")
        finally:
            await self.unlock()

    async def describe(self) -> str:
        async with self._usable() as session:
            return session.describe()

    async def close(self) -> None:
        await self.unlock()
        await self._drop()

    async def _locked(self, holding: Session) -> bool:
        """Tries to lock the row, without waiting. The lock then lasts until the connection ends."""
        await holding.run("BEGIN")
        statement = "SELECT 1 FROM krebit_proxy_lock WHERE id = %s FOR UPDATE SKIP LOCKED"
        if not await holding.run(statement, self._identity):
            await holding.run("ROLLBACK")
            return False
        statement = (
            "SELECT set_config(name, value, true)"
            " FROM json_each_text(%s::json) AS wanted (name, value) JOIN pg_settings USING (name)"
        )
        await holding.run(statement, json.dumps(_HOLDING))
        return True

    async def _keep_lock(self) -> bool:
        """Whether we still hold the lock. The query also resets the server's idle time-out."""
        if self._lock is not None:
            try:
                await self._lock.run("SELECT 1")
            except (Error, TimeoutError):
                await self.unlock()
        return self._lock is not None

    @contextlib.asynccontextmanager
    async def _usable(self) -> AsyncIterator[Session]:
        """The connection for reads and writes. After an error, it is closed."""
        with explained(self._place):
            try:
                yield await self._ready()
            except BaseException:
                await self._drop()
                raise

    async def _ready(self) -> Session:
        """The open connection if it still works, otherwise a new one. The test keeps a write off a broken one."""
        if self._session is not None:
            try:
                await self._session.run("SELECT 1")
            except Error:
                await self._drop()
        if self._session is None:
            self._session = await Session.open(self._address, self.patience)
            await _create_tables(self._session)
        return self._session

    async def _drop(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


async def _create_tables(session: Session) -> None:
    """Creates the tables if they are missing. Looks first, because a user without CREATE may still use them."""
    present = "SELECT to_regclass('krebit_proxy_grant') IS NOT NULL AND to_regclass('krebit_proxy_lock') IS NOT NULL"
    if (await session.run(present))[0][0]:
        return
    for table in (_GRANT_TABLE, _LOCK_TABLE):
        # IF NOT EXISTS still fails if two sessions create the table at the same moment.
        with contextlib.suppress(errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject):
            await session.run(table)
