"""The aiohttp edge. `Proxy` is the whole program but its command line."""

from krebit_proxy.config import Settings


class Proxy:
    """Store, credentials, upstream and listeners of one proxy, started and stopped together."""

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Opens the store, reads the grant and listens. Raises SettingsError, StoreError or OSError."""

    @property
    def urls(self) -> list[str]:
        """Where it listens, e.g. http://127.0.0.1:8321, with the real port where the setting said 0."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stops accepting, finishes what is in flight within `limits.drain`, waits for a running refresh."""
