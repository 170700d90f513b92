"""TLS over any Stream, and the certificates of a server.  Each module is imported by its own name.

``certificates``
    Temporary certificates for tests and trials, and the context of a server: ``temporary_certificate()``.
``certificate_names``
    The names in a client certificate, which are mapped to accounts (EXTERNAL).
``certificate_validity``
    The validity period of a certificate.
``channel_binding``
    The digest of the server's certificate (``tls-server-end-point``) for SCRAM with PLUS, and a context that knows it.
``layer``
    TLS in memory, over a Stream: what the adapters use.
``verification``
    Why the certificate of a server was rejected, and what to do.
"""
