"""The addresses that a write key may be sent to, and those that are refused without being repeated."""

import pytest

from segment_async._http.origin import batch_url, is_loopback

PASSWORD = "THE-PASSWORD"


class TestOrigin:
    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("https://api.segment.io", "https://api.segment.io/v1/batch"),
            ("https://api.segment.io/", "https://api.segment.io/v1/batch"),
            ("https://api.segment.io/v1", "https://api.segment.io/v1/batch"),
            ("https://api.segment.io/v1/", "https://api.segment.io/v1/batch"),
            ("HTTPS://proxy.example:8443/a/b/", "https://proxy.example:8443/a/b/v1/batch"),
            ("https://proxy.example/a/v1/", "https://proxy.example/a/v1/batch"),
            ("https://api.segment.io/v1/batch", "https://api.segment.io/v1/batch"),
            ("https://proxy.example/a/v1/batch/", "https://proxy.example/a/v1/batch"),
            ("https://proxy.example/batch", "https://proxy.example/batch/v1/batch"),
            ("https://v1", "https://v1/v1/batch"),
            ("https://v1/v1", "https://v1/v1/batch"),
            ("http://localhost:8080", "http://localhost:8080/v1/batch"),
            ("http://127.0.0.1", "http://127.0.0.1/v1/batch"),
            ("http://[::1]:80", "http://[::1]:80/v1/batch"),
            ("http://segment.localhost", "http://segment.localhost/v1/batch"),
        ],
    )
    def test_the_batch_url(self, host: str, url: str) -> None:
        assert batch_url(host) == url

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "api.segment.io",
            "ftp://api.segment.io",
            "https://",
            "https:///v1",
            "https://user@api.segment.io",
            f"https://user:{PASSWORD}@api.segment.io",
            f"https://user:{PASSWORD}\u2100@api.segment.io",
            f"https://[{PASSWORD}",
            "https://@api.segment.io",
            "https://api.segment.io?a=b",
            "https://api.segment.io#a",
            "https://api.segment.io:port",
            "https://api.segment.io:99999",
            "https://api.segment.io\r\nX: y",
            "https://api.segment.io ",
            "https://api.\tsegment.io",
            "https://api.segment.io\x7f",
            "https://api.segment.io\x85",
            "https://api.segment.io/\u2028",
            "https://api.segment.io/\xa0",
            "http://api.segment.io",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://0.0.0.0",
        ],
    )
    def test_an_unsafe_host_is_refused_and_not_repeated(self, host: str) -> None:
        with pytest.raises(ValueError) as caught:
            batch_url(host)
        assert PASSWORD not in str(caught.value)
        assert caught.value.__context__ is None

    def test_plain_http_if_it_is_allowed(self) -> None:
        assert batch_url("http://proxy.example", allow_http=True) == "http://proxy.example/v1/batch"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("localhost", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("localhost.example", False)],
    )
    def test_loopback(self, name: str, *, expected: bool) -> None:
        assert is_loopback(name) is expected
