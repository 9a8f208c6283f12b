"""Roundtrip: the durable record and the switchboard between a backend and its AI inference."""

__version__ = "0.1.0"
