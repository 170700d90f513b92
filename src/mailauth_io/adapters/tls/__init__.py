"""TLS over any Stream, and the certificates of a server.  Each module is imported by its own name."""

__all__ = ["certificate_names", "certificate_validity", "certificates", "channel_binding", "layer"]
