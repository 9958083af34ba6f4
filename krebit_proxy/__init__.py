"""krebit-proxy: lets tools without any authentication use an API that needs OAuth 2.0."""

__version__ = "0.1.0"

# RFC 9110 10.1.5. For every request of our own; a forwarded one keeps its caller's. Some firewalls refuse libraries.
USER_AGENT = f"krebit-proxy/{__version__}"
