"""Certificates of a private authority, good ones and each kind of bad one, for servers on 127.0.0.1.

Made for each authority and kept in memory. What a client does about them is not known here.
"""

import datetime as dt
import ssl
from pathlib import Path

import trustme


class PrivateCA:
    """An authority that is trusted only by who asks for `client_context`."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def client_context(self) -> ssl.SSLContext:
        """Trust this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context

    def write_to(self, path: Path) -> None:
        """The authority's certificate, as a bundle for those who trust it."""
        self._ca.cert_pem.write_to_path(str(path))

    def good(self) -> ssl.SSLContext:
        return _server_context(self._ca.issue_cert("127.0.0.1"))

    def wrong_name(self) -> ssl.SSLContext:
        return _server_context(self._ca.issue_cert("elsewhere.example"))

    def expired(self) -> ssl.SSLContext:
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        return _server_context(self._ca.issue_cert("127.0.0.1", not_after=yesterday))

    def self_signed(self) -> ssl.SSLContext:
        """Show a certificate that signs itself: that of an authority made for the purpose."""
        ca = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with ca.private_key_pem.tempfile() as key, ca.cert_pem.tempfile() as certificate:
            context.load_cert_chain(certificate, key)
        return context


def _server_context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context
