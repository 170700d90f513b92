"""TLS over any Stream, and the certificates of a server.  Each module is imported by its own name."""
