"""The whole program without its command line. `Proxy` connects store, credentials, upstream, pages and listeners.

The order of `_start` matters: parts are stopped in the opposite order.
"""

import asyncio
import gc
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import structlog

from krebit_proxy import log
from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import StoreBusyError, StoreError
from krebit_proxy.metrics import Metrics
from krebit_proxy.stores import open_store, store_cautions
from krebit_proxy.tasks import spawn
from krebit_proxy.token_endpoint import TokenEndpoint
from krebit_proxy.upstream import Upstream
from krebit_proxy.web.admission import KeyFile, access_rules, key_cautions
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
    """One proxy with all its parts. `start` it once, then `stop` it."""

    def __init__(self, settings: Settings, *, observe: Path | None = None) -> None:
        """`observe`: a file that records requests. `access.read_only` and `access.allow` are not enforced then."""
        self._settings = settings
        self._observe = observe
        self._listeners = Listeners()
        self._running = AsyncExitStack()
        self._trial: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts all parts. Raises ProxyError or OSError, and stops those that were started."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings, running = self._settings, self._running
        keys = KeyFile(settings.access.client_keys_file) if settings.access.client_keys_file else None
        rules, certificate = access_rules(settings), server_certificate(settings)
        for text in [*key_cautions(settings), *store_cautions(settings)]:
            _log.warning("settings.caution", text=text)
        observer = None
        if self._observe is not None:
            rules, observer = replace(rules, read_only=False, allow=()), Observer(self._observe)
            running.callback(observer.close)
        self._listeners = open_listeners(settings)
        running.callback(self._listeners.close)

        metrics = Metrics()
        metrics.counter("log_dropped", "Log lines that found no room or could not be written.", log.dropped)
        token_endpoint = TokenEndpoint(settings)
        credentials = Credentials(settings, open_store(settings), token_endpoint, metrics)
        # Stopped after the server: a refresh under way finishes, and its tokens are stored.
        running.push_async_callback(credentials.close)
        await credentials.start()

        batches = Batches()
        upstream = Upstream(settings, batches, metrics)
        running.push_async_callback(upstream.close)
        setup = Setup(settings, credentials, token_endpoint)
        running.push_async_callback(setup.close)

        deliveries: dict[str, Delivery] = {}
        status = StatusPages(settings, credentials, metrics, setup=setup.for_command, deliveries=deliveries)
        pages = {**status.routes(), **setup.routes()}
        api = Api(settings, credentials, upstream, metrics)
        server = Server(settings, rules=rules, api=api, pages=pages, metrics=metrics, batches=batches, observe=observer)
        running.push_async_callback(server.shutdown, settings.limits.drain, self._listeners.refuse)
        encrypted = None
        if certificate is not None:
            patience = settings.limits.header_timeout
            encrypted = handshaking(server, certificate.context, patience)
        await self._listeners.serve(server, encrypted)
        self._trial = spawn(_try_out(settings), name="trying out the store")
        running.callback(self._trial.cancel)
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
        # All objects of now live as long as the process. The garbage collector need not check them again.
        gc.freeze()

    @property
    def urls(self) -> list[str]:
        """Where it listens, e.g. http://127.0.0.1:8321, with the actual port if the setting said 0."""
        return self._listeners.urls

    async def stop(self) -> None:
        """Stops accepting, lets calls finish for `limits.drain` seconds, and waits for a running refresh."""
        await asyncio.shield(self._running.aclose())
        if self._trial is not None:
            await asyncio.wait([self._trial])  # it cleans up


async def _try_out(settings: Settings) -> None:
    """Logs an error now if the store cannot be locked or written, not only at the first setup or refresh."""
    store = open_store(settings)
    try:
        await store.probe()
    except StoreBusyError:
        pass  # another process uses it, so it works
    except StoreError as error:
        _log.error("store.unusable", reason=error.detail, hint=error.hint)
    finally:
        await store.close()
