"""Proxies and certificate authorities of the environment: taken on request, once, and never shown."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, HTTPTransport
from segment_async._http.environment import authorities, proxy_for
from tests.support.fault_server import FaultServer
from tests.support.private_ca import PrivateCA

URL = "https://api.segment.io/v1/batch"
PASSWORD = "THE-PASSWORD"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
BUNDLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *BUNDLES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class TestProxy:
    @pytest.mark.parametrize(
        ("environment", "proxy"),
        [
            ({}, None),
            ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
            ({"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
            ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
            ({"HTTPS_PROXY": ""}, None),
            ({"HTTP_PROXY": "http://proxy:3128"}, None),
            ({"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
            ({"HTTPS_PROXY": "http://one", "ALL_PROXY": "http://two"}, "http://one"),
            ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "localhost, segment.io"}, None),
            ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": ".segment.io"}, None),
            ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "*"}, None),
            ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "gment.io,api.segment.io:8443"}, "http://proxy"),
        ],
    )
    def test_which(self, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text in environment.items():
            monkeypatch.setenv(name, text)
        assert proxy_for(URL) == proxy

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
    def test_one_that_is_none(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, f"socks5://user:{PASSWORD}@proxy:1080")
        with pytest.raises(ValueError, match=f"{name} in the environment must be") as caught:
            Client("KEY", trust_env=True)
        assert PASSWORD not in str(caught.value)
        Client("KEY")

    def test_requests_go_through_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> list[str]:
            async with FaultServer() as proxy:
                monkeypatch.setenv("HTTP_PROXY", proxy.url)
                options: Any = {"host": "http://segment.example", "allow_http": True}
                async with Client("KEY", trust_env=True, **options) as client:
                    monkeypatch.setenv("HTTP_PROXY", "http://too.late.example")
                    await client.track("user-1", "Seen")
                return [request.target for request in proxy.requests]

        assert asyncio.run(main()) == ["http://segment.example/v1/batch"]

    def test_the_option_takes_precedence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy")
        Client("KEY", trust_env=True, proxy="http://proxy:3128")

    def test_a_plain_one_beyond_this_machine_must_be_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
        with pytest.raises(ValueError, match="without a plain proxy in between"):
            Client("KEY", host="http://localhost:8765", trust_env=True)


class TestAuthorities:
    def test_none(self) -> None:
        assert authorities() is None

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_private_one(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = PrivateCA()
        authority.write_to(tmp_path / "ca.pem")
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))

        async def main() -> int:
            async with FaultServer(tls=authority.good()) as server:
                transport = HTTPTransport(f"{server.url}/v1/batch", trust_env=True)
                try:
                    return (await transport.send(b"{}", {})).status
                finally:
                    await transport.aclose()

        assert asyncio.run(main()) == 200

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, str(tmp_path))
            context = authorities()
            assert context is not None
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
            monkeypatch.delenv(name)

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_file_that_is_none(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "empty.pem").write_text("no certificate")
        for file in ("empty.pem", "absent.pem"):
            monkeypatch.setenv(name, str(tmp_path / file))
            with pytest.raises(ValueError, match=f"{name} in the environment names no file of certificates"):
                Client("KEY", trust_env=True)

    def test_a_folder_that_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file.pem").write_text("no folder")
        for path in ("absent", "file.pem"):
            monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / path))
            with pytest.raises(ValueError, match="SSL_CERT_DIR in the environment names no folder of certificates"):
                Client("KEY", trust_env=True)
        monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'absent'}{os.pathsep}{tmp_path}")
        assert authorities() is not None

    def test_the_option_takes_precedence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "/absent.pem")
        Client("KEY", trust_env=True, ssl_context=PrivateCA().client_context())
