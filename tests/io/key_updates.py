"""Records of TLS 1.3 that the ssl module cannot send: key updates (RFC 8446 section 4.6.3)."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_KEY_UPDATE = bytes.fromhex("18 000001")  # and a byte: whether the peer must update its keys too
_HANDSHAKE = b"\x16"


class KeyUpdates:
    """The key updates of a client that has sent no application data, with TLS_AES_256_GCM_SHA384."""

    def __init__(self, keys: Path) -> None:
        """*keys* is the file that the context of the client has written (``SSLContext.keylog_filename``)."""
        labels = {line.split()[0]: line.split()[2] for line in keys.read_text().splitlines() if line[:1] != "#"}
        self._secret = bytes.fromhex(labels["CLIENT_TRAFFIC_SECRET_0"])

    def next(self, *, requested: bool = True) -> bytes:
        """Return the next record, which the peer must answer if *requested*.

        Each has keys of its own, since it ends those before it.
        """
        key, nonce = self._expand("key", 32), self._expand("iv", 12)  # the sequence number is 0
        inner = _KEY_UPDATE + bytes([requested]) + _HANDSHAKE
        header = bytes.fromhex("170303") + (len(inner) + 16).to_bytes(2, "big")
        self._secret = self._expand("traffic upd", 48)
        return header + AESGCM(key).encrypt(nonce, inner, header)

    def _expand(self, name: str, size: int) -> bytes:
        """HKDF-Expand-Label with an empty context (section 7.1)."""
        label = b"tls13 " + name.encode()
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + bytes(1)
        return HKDFExpand(algorithm=SHA384(), length=size, info=info).derive(self._secret)
