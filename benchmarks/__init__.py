"""Measured figures, each beside something that it is compared with in the same run. Never part of the tests."""
