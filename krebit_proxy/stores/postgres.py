"""The grant in PostgreSQL, for any number of machines, also behind a pooler that lends connections by transaction.

Two rows on two connections. The lock is a row that one connection holds in an open transaction: the server frees it
when that connection ends, whatever the reason. The grant is another row, written through a second connection, so that
an intent is visible at once. Such a lock can be lost while its holder lives: by a restart, a failover, an
administrator. So it is confirmed right before a token is spent, and every write names the generation it replaces.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Final

from psycopg import Error, errors

from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreBusyError, StoreConflictError, StoreError
from krebit_proxy.stores.encryption import Sealing
from krebit_proxy.stores.session import Session, explained, place_of

_GRANT_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS krebit_proxy_grant (
        id text PRIMARY KEY,
        generation bigint NOT NULL,
        content text NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now()
    )"""
_LOCK_TABLE: Final = "CREATE TABLE IF NOT EXISTS krebit_proxy_lock (id text PRIMARY KEY)"
# Seconds between two tries for the lock. Who waited in the server's queue would keep one of the few connections of a
# pooler from the holder, who needs it to get done.
_POLL: Final = 0.1
# For the transaction that holds the lock, against whatever the database has as its defaults. A holder whose machine is
# gone without a word is let go after two minutes, which is longer than the longest token request.
_HOLDING: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",  # since PostgreSQL 17
    "idle_in_transaction_session_timeout": "120s",
}


class PostgresStore:
    """See `stores.Store`.

    Args:
        address: a URL, or key=value pairs, by libpq's rules.
        identity: whose grant it is; one database can hold many.
        sealing: turns a grant into what is stored, and back.
    """

    intent_grace = 10.0
    patience = 5.0  # seconds for one answer of the server

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
        async with self._usable() as session:
            statement = "SELECT content, generation FROM krebit_proxy_grant WHERE id = %s"
            rows = await session.run(statement, self._identity)
        if not rows:
            return None
        content, generation = rows[0]
        return await asyncio.to_thread(self._sealing.open, content.encode(), self._place, generation=generation)

    async def lock(self, timeout: float) -> None:
        """Holds the lock on a connection of its own, for as long as that one lives."""
        if self._lock is not None:
            return
        async with self._usable() as session:
            statement = "INSERT INTO krebit_proxy_lock (id) VALUES (%s) ON CONFLICT DO NOTHING"
            await session.run(statement, self._identity)
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        with explained(self._place):
            holding = await Session.open(self._address, self.patience)
            try:
                while not await self._locked(holding):
                    if clock() > end:
                        raise StoreBusyError(
                            f"Another process holds the lock in {self._place} for more than {timeout:.0f} seconds.",
                            hint="Look for a krebit-proxy that hangs, on any machine, and stop it.",
                            code="token_unavailable",
                        )
                    await asyncio.sleep(_POLL * (0.5 + random.random()))
            except BaseException:
                await holding.close()
                raise
        self._lock = holding

    async def confirm_lock(self) -> None:
        if not await self._keep_lock():
            raise StoreError(
                f"The lock in {self._place} was lost.",
                hint="The database restarted, or closed the connection. It is tried again.",
                code="token_unavailable",
            )

    async def unlock(self) -> None:
        """The server frees the lock with the connection."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            await lock.close()

    async def write(self, expected: int, grant: Grant) -> None:
        """If the connection breaks off before the answer, a read tells whether it was done."""
        content = (await asyncio.to_thread(self._sealing.seal, grant)).decode()
        async with self._usable() as session:
            await self._keep_lock()  # a write that is tried for long must not let it lapse
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
            raise StoreConflictError(f"The stored grant has another generation than {expected}.")

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

    async def close(self) -> None:
        await self.unlock()
        await self._drop()

    async def _locked(self, holding: Session) -> bool:
        """Whether the row could be had at once. It is then held until the connection ends."""
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
        """Whether the lock is still held. Asking also keeps it from being let go as idle."""
        if self._lock is not None:
            try:
                await self._lock.run("SELECT 1")
            except (Error, TimeoutError):
                await self.unlock()
        return self._lock is not None

    @contextlib.asynccontextmanager
    async def _usable(self) -> AsyncIterator[Session]:
        """The connection for reads and writes, which is not used again after an error."""
        with explained(self._place):
            try:
                yield await self._ready()
            except BaseException:
                await self._drop()
                raise

    async def _ready(self) -> Session:
        """The open connection if it still works, so that a broken one costs no write; else a new one."""
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
    """On first use. Looks first: whoever may not create tables may still use them."""
    present = "SELECT to_regclass('krebit_proxy_grant') IS NOT NULL AND to_regclass('krebit_proxy_lock') IS NOT NULL"
    if (await session.run(present))[0][0]:
        return
    for table in (_GRANT_TABLE, _LOCK_TABLE):
        # IF NOT EXISTS does not cover two who create it at the same moment.
        with contextlib.suppress(errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject):
            await session.run(table)
