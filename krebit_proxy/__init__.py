"""krebit-proxy: lets tools without any authentication use an API that needs OAuth 2.0."""

__version__ = "0.1.0"
