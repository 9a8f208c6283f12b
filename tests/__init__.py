"""Tests against real parts; the contract is in `conftest.py`."""
