"""What a caller does whose call came back with 401."""

from krebit_proxy.credentials import Bearer, Credentials


async def token_after_401(credentials: Credentials, generation: int = 1) -> Bearer:
    """The token that replaces one of this generation, which the API refused. Raises Refused."""
    bearer = await credentials.after_401(Bearer(generation, b""))
    assert bearer is not None
    return bearer
