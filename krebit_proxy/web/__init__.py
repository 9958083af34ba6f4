"""The aiohttp edge: the callers' connections, the API, our own pages."""
