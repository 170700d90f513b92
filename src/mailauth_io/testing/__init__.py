"""A mail server for tests, with faults."""
