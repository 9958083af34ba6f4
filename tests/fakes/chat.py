"""A webhook that insists on `text`, as those of Slack, Teams and Mattermost do, and answers in their words."""

from typing import Any, Self

from aiohttp import web


class Chat:
    """Takes messages at `url`. Once it is `gone`, it refuses them, and quotes the path."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.gone = False

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/services/T00000/secret-hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/services/T00000/secret-hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        message = await request.json()
        if self.gone:
            return web.Response(status=404, text=f"<h1>no_service</h1>\nat {request.path}")
        if "text" not in message:
            return web.Response(status=400, text="no_text")
        self.messages.append(message)
        return web.Response(text="ok")
