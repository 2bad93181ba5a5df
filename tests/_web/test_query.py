"""What is sent of a query string: the campaign under its own names, and no parameter that looks like a secret."""

from __future__ import annotations

import pytest

from segment_async._web.query import campaign, filtered


def test_utm_fields_have_the_names_of_the_browser_library() -> None:
    query = "utm_source=s&utm_medium=m&utm_campaign=c&utm_term=t&utm_content=a+b&utm_id=7&utm_=x&utm_empty=&x=1"
    assert campaign(query) == {"source": "s", "medium": "m", "name": "c", "term": "t", "content": "a b", "id": "7"}
    assert campaign("utm_source=%ff&utm_term=%zz") == {"source": "%ff", "term": "%zz"}


@pytest.mark.parametrize(
    "secret",
    [
        "token=abc",
        "access_token=1",
        "accessToken=1",
        "X-Amz-Signature=1",
        "PASSWORD=hunter2",
        "p%61ssword=hunter2",
        "code=4%2F0AX",
        "sig=ab",
        "session_id=1",
        "reset_key=1",
        "verification_code=123456",
        "apiKey=1",
        "q=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "x=sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "x=ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "x=0123456789abcdef0123456789abcdef",
        "x=wJalrXUtnFEMI7K7MDENGbPxRfiCYEXAMPLEKEY",
        "next=%2Freset%3Ftoken%3Dabc",
        "next=%252Freset%253Ftoken%253Dabc",
        "to=https%3A%2F%2Fuser%3Apass%40host%2F",
        "token",
        "utm_content=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    ],
)
def test_scrubbing_removes_what_looks_like_a_secret(secret: str) -> None:
    assert filtered(f"a=1&{secret}&b=2", "scrub") == "a=1&b=2"


@pytest.mark.parametrize(
    "harmless",
    [
        "q=red+shoes",
        "page=2",
        "promo_code=SPRING",
        "sort_key=price",
        "state=CA",
        "author=Ada",
        "monkey=1",
        "id=3b9ae1a7-2d3e-4a44-9d4c-0d1ab2a0a9d1",
        "gclid=EAIaIQobChMI8vWbwq7Q9AIVxQgGAB0J5wLxEAAYASAAEgKX7fD_BwE",
        "utm_campaign=spring_sale_2026_Retargeting_Audience_B_Germany",
        "next=%2Fproducts%2Fshoes%3Fsize%3D42",
        "broken=%zz%",
        "flag",
        "email=ada%40example.com",
    ],
)
def test_scrubbing_keeps_the_rest_unchanged(harmless: str) -> None:
    assert filtered(harmless, "scrub") == harmless


def test_the_other_modes() -> None:
    query = "utm_source=s&token=t&q=1"
    assert (filtered(query, "all"), filtered(query, "none"), filtered(query, "utm")) == (query, "", "utm_source=s")
