"""What says who sends a request, before any token is fetched."""

import asyncio
import base64

import pytest

from segment_async._pipeline.auth import Basic
from tests.support.token_server import oauth


class TestBasic:
    def test_the_key_is_the_user_and_there_is_no_password(self) -> None:
        assert base64.b64decode(asyncio.run(Basic("key").header()).removeprefix("Basic ")) == b"key:"


class TestOAuth:
    @pytest.mark.parametrize("name", ["client_id", "client_key", "key_id", "scope"])
    def test_none_may_be_empty(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            oauth(**{name: ""})

    @pytest.mark.parametrize("name", ["client_id", "key_id", "scope"])
    @pytest.mark.parametrize("value", [5, b"text"])
    def test_ids_and_the_scope_are_text(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"{name} must be text"):
            oauth(**{name: value})

    @pytest.mark.parametrize("server", ["", "auth.example", "https://user:THE-PASSWORD@auth.example"])
    def test_a_token_server_that_is_no_origin_is_refused_before_it_shows(self, server: str) -> None:
        with pytest.raises(ValueError, match=r"^auth_server must") as caught:
            oauth(auth_server=server)
        assert "PASSWORD" not in str(caught.value)

    def test_it_does_not_show_the_key(self) -> None:
        assert "PRIVATE" not in repr(oauth())
