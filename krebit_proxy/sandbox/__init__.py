"""A stand-in for Krebit on loopback. People use it without an account, and tests control it."""

from krebit_proxy.sandbox.faults import Faults, Order
from krebit_proxy.sandbox.grants import Rotation
from krebit_proxy.sandbox.server import Options, Sandbox

__all__ = ["Faults", "Options", "Order", "Rotation", "Sandbox"]
