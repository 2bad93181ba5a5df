"""Django's own test client and user, in a process whose settings and client nothing else has made before."""

import os
from typing import Any

import pytest

from segment_async import bind
from tests.support.asgi import ANONYMOUS, FIREFOX


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.programs.django_shop.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.http import HttpResponse
    from django.test import Client as Browser
    from django.test import RequestFactory, override_settings

    from segment_async.django import SegmentMiddleware, client

    call_command("migrate", verbosity=0)
    user = get_user_model().objects.create_user("ada")
    seen: list[Any] = []
    options = {"SEGMENT_OPTIONS": {"send": False, "before_send": lambda message: seen.append(message) or message}}
    assert settings.SEGMENT_WRITE_KEY == "KEY"
    with override_settings(**options):
        browser = Browser(headers={"user-agent": FIREFOX})
        browser.force_login(user)
        assert browser.get("/orders").status_code == 200

        def view(request: Any) -> Any:
            bind(user_id="first")
            Browser(headers={"cookie": f"ajs_anonymous_id={ANONYMOUS}"}).get("/orders")
            client.track(event="After")
            return HttpResponse()

        # A request that is made within another one.
        SegmentMiddleware(view)(RequestFactory().get("/"))
        client.close()
    assert [message.get("userId") for message in seen] == [str(user.pk), None, "first"]
    assert seen[1]["anonymousId"] == ANONYMOUS

    async def name(request: Any) -> str:
        return "Name"

    with (
        override_settings(SEGMENT_MIDDLEWARE={"page_name": name}),
        pytest.raises(ValueError, match="page_name must be a plain function"),
    ):
        SegmentMiddleware(lambda request: None)


if __name__ == "__main__":
    main()
