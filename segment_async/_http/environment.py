"""The proxy and the certificate authorities that the environment names. Pure but for reading both.

No error repeats what a variable holds, because it may be credentials.
"""

from __future__ import annotations

import os
import ssl
from typing import Final
from urllib.parse import urlsplit

from .origin import is_http_url

_FILES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def proxy_for(url: str) -> str | None:
    """The proxy for this URL; `None`: there is none, or ``NO_PROXY`` exempts the host.

    Raises:
        ValueError: what the environment names is no HTTP proxy.
    """
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    parts = urlsplit(url)
    name = parts.scheme if parts.scheme in proxies else "all"
    proxy = proxies.get(name)
    if not proxy or proxy_bypass(parts.netloc):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not is_http_url(proxy):
        raise ValueError(f'{name.upper()}_PROXY in the environment must be a URL such as "http://proxy.example:3128"')
    return proxy


def authorities() -> ssl.SSLContext | None:
    """A context with the authorities that the environment names; `None`: it names none.

    Raises:
        ValueError: there are no certificates where a variable points to.
    """
    folder = os.environ.get("SSL_CERT_DIR")
    name = next((name for name in _FILES if os.environ.get(name)), None)
    if name is None and not folder:
        return None
    try:
        # A bundle may be a folder, as for requests and curl.
        path = os.environ[name] if name is not None else None
        if path is not None and os.path.isdir(path):
            path, folder = None, path
        # OpenSSL takes several folders in one text, and ignores those that are missing.
        if path is not None or any(map(os.path.isdir, (folder or "").split(os.pathsep))):
            return ssl.create_default_context(cafile=path, capath=folder or None)
    except OSError:
        pass
    what = "SSL_CERT_DIR in the environment names no folder"
    if name is not None:
        what = f"{name} in the environment names no file"
    raise ValueError(f"{what} of certificates")
