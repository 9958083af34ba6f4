"""The whole program but its command line: `Proxy` puts store, credentials, upstream and edge together."""

import asyncio
import gc
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import structlog

from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import StoreBusyError, StoreError
from krebit_proxy.metrics import Metrics
from krebit_proxy.stores import open_store
from krebit_proxy.tasks import spawn
from krebit_proxy.token_endpoint import TokenEndpoint
from krebit_proxy.upstream import Upstream
from krebit_proxy.web.admission import KeyFile, access_rules
from krebit_proxy.web.api import Api
from krebit_proxy.web.handshake import handshaking
from krebit_proxy.web.listeners import Listeners, open_listeners
from krebit_proxy.web.notify import Delivery, Notifier
from krebit_proxy.web.observer import Observer
from krebit_proxy.web.server import Server
from krebit_proxy.web.setup import Setup
from krebit_proxy.web.status import StatusPages
from krebit_proxy.web.tls import server_certificate

_log = structlog.get_logger()


class Proxy:
    """Store, credentials, upstream and listeners of one proxy, started and stopped together."""

    def __init__(self, settings: Settings, *, observe: Path | None = None) -> None:
        """`observe`: a file for what callers do; meanwhile `access.read_only` and `access.allow` refuse nothing."""
        self._settings = settings
        self._observe = observe
        self._listeners = Listeners()
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Opens the store, reads the grant and listens. Raises ProxyError or OSError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings, running = self._settings, self._running
        keys = KeyFile(settings.access.client_keys_file) if settings.access.client_keys_file else None
        rules, certificate = access_rules(settings), server_certificate(settings)
        observer = None
        if self._observe is not None:
            rules, observer = replace(rules, read_only=False, allow=()), Observer(self._observe)
            running.callback(observer.close)
        self._listeners = open_listeners(settings)
        running.callback(self._listeners.close)

        metrics = Metrics()
        token_endpoint = TokenEndpoint(settings)
        credentials = Credentials(settings, open_store(settings), token_endpoint, metrics)
        # Last of all: a refresh that is under way ends, and its answer is stored.
        running.push_async_callback(credentials.close)
        await credentials.start()

        batches = Batches()
        upstream = Upstream(settings, batches)
        running.push_async_callback(upstream.close)
        setup = Setup(settings, credentials, token_endpoint)
        running.push_async_callback(setup.close)

        deliveries: dict[str, Delivery] = {}
        status = StatusPages(settings, credentials, metrics, run=setup.run, deliveries=deliveries)
        pages = {**status.routes(), **setup.routes()}
        api = Api(settings, credentials, upstream, metrics)
        server = Server(settings, rules=rules, api=api, pages=pages, metrics=metrics, batches=batches, observe=observer)
        running.push_async_callback(server.shutdown, settings.limits.drain)
        encrypted = None
        if certificate is not None:
            patience = settings.limits.header_timeout
            encrypted = handshaking(server, certificate.context, patience)
        for accepting in await self._listeners.serve(server, encrypted):
            running.push_async_callback(accepting.close)
        running.callback(spawn(_try_out(settings), name="trying out the store").cancel)
        if keys is not None:
            running.callback(spawn(keys.follow(server), name="client keys").cancel)
        if certificate is not None:
            running.callback(spawn(certificate.follow(server.seats.admit_anew), name="certificate").cancel)
        origin = self._listeners.origin(next(iter(settings.access.allowed_hosts), "localhost"))
        setup.announce(origin)
        if settings.notify.webhook or settings.notify.command:
            notifier = Notifier(settings, credentials, origin or "", metrics=metrics, deliveries=deliveries)
            running.push_async_callback(notifier.close)
            notifier.start()
        # What exists now lives as long as the process: the garbage collector need not look at it again.
        gc.freeze()

    @property
    def urls(self) -> list[str]:
        """Where it listens, e.g. http://127.0.0.1:8321, with the real port where the setting said 0."""
        return self._listeners.urls

    async def stop(self) -> None:
        """Stops accepting, finishes what is in flight within `limits.drain`, waits for a running refresh."""
        await asyncio.shield(self._running.aclose())


async def _try_out(settings: Settings) -> None:
    """Says at once what would go wrong at the first setup or refresh: that the store takes no lock, or no writes."""
    store = open_store(settings)
    try:
        await store.probe()
    except StoreBusyError:
        pass  # somebody is at it, so it works
    except StoreError as error:
        _log.error("store.unusable", reason=error.detail, hint=error.hint)
    finally:
        await store.close()
