"""Decisions without I/O: time, entropy and the environment come in as arguments."""
