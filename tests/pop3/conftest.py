"""Runs the tests of the server in both modes of syntax."""

from tests.both_modes import pytest_generate_tests, syntax, tolerant

__all__ = ["pytest_generate_tests", "syntax", "tolerant"]
