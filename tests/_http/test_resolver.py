"""Name resolution in a daemon thread and, where no thread can be started, from memory or in a child process."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.abc import ResolveResult

from segment_async import HTTPTransport, TransportError
from segment_async._http.resolver import Resolver

Answer = Callable[[str], list[Any]]


def resolve(host: str, port: int = 443, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
    async def main() -> list[ResolveResult]:
        resolver = Resolver()
        try:
            return await resolver.resolve(host, port, family)
        finally:
            await resolver.close()

    return asyncio.run(main())


def addresses(*hosts: str) -> list[Any]:
    """What getaddrinfo returns for them."""
    return [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 443)) for host in hosts
    ]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Replaces the system's getaddrinfo."""

    def says(answer: Answer) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: answer(host))

    return says


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started, as when the interpreter is about to exit."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def end_other_threads() -> None:
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(10)


class TestInAThread:
    def test_the_system_s_addresses(self) -> None:
        assert {result["host"] for result in resolve("localhost")} <= {"127.0.0.1", "::1"}

    def test_all_addresses_of_the_family_asked_for(self, system: Callable[[Answer], None]) -> None:
        system(lambda host: addresses("192.0.2.1", "2001:db8::1", "192.0.2.2"))
        assert [result["host"] for result in resolve("a.example")] == ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
        assert [result["host"] for result in resolve("a.example", family=socket.AF_INET6)] == ["2001:db8::1"]
        first = resolve("a.example", 8443)[0]
        assert (first["hostname"], first["port"], first["family"]) == ("a.example", 8443, socket.AF_INET)

    def test_each_lookup_asks_the_system(self, system: Callable[[Answer], None]) -> None:
        for host in ("192.0.2.1", "192.0.2.2"):
            system(lambda _, host=host: addresses(host))
            assert resolve("changing.example")[0]["host"] == host

    @pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("too long")])
    def test_an_unknown_name(self, system: Callable[[Answer], None], error: Exception) -> None:
        def fail(_: str) -> list[Any]:
            raise error

        system(fail)
        with pytest.raises(OSError, match="name not resolved"):
            resolve("nothing.example")

    def test_a_hanging_lookup_delays_neither_the_request_nor_the_end_of_the_loop(
        self, system: Callable[[Answer], None]
    ) -> None:
        over = threading.Event()

        def hang(_: str) -> list[Any]:
            over.wait(60)
            return addresses("192.0.2.1")

        async def main() -> TransportError:
            transport = HTTPTransport("https://hanging.example/v1/batch", timeout=0.1)
            with pytest.raises(TransportError) as caught:
                await transport.send(b"", {})
            await transport.aclose()
            return caught.value

        system(hang)
        # The lookup ends only after the loop: a loop that waited for it would hang.
        assert not asyncio.run(main()).maybe_sent
        over.set()
        end_other_threads()

    def test_a_hanging_lookup_does_not_delay_the_end_of_the_program(self) -> None:
        program = (
            "import asyncio, socket, threading\n"
            "from segment_async._http.resolver import Resolver\n"
            "socket.getaddrinfo = lambda *_, **__: threading.Event().wait()\n"
            "async def main(): await asyncio.wait_for(Resolver().resolve('hanging.example', 443), 0.1)\n"
            "try: asyncio.run(main())\n"
            "except TimeoutError: print('ended')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
        assert done.stdout == "ended\n"

    def test_a_result_that_is_not_awaited_any_more(self, system: Callable[[Answer], None]) -> None:
        over = threading.Event()

        async def main() -> None:
            loop, asked = asyncio.get_running_loop(), asyncio.Event()

            def wait(_: str) -> list[Any]:
                loop.call_soon_threadsafe(asked.set)
                over.wait(60)
                return addresses("192.0.2.1")

            system(wait)
            resolving = asyncio.create_task(Resolver().resolve("slow.example", 443))
            await asked.wait()
            resolving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await resolving
            over.set()
            end_other_threads()
            await asyncio.sleep(0)

        asyncio.run(main())


class TestWithoutThreads:
    def test_earlier_addresses_are_used(
        self, system: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system(lambda _: addresses("192.0.2.7"))
        resolve("known.example")
        system(lambda _: pytest.fail("was asked again"))
        refuse_threads(monkeypatch)
        assert resolve("known.example")[0]["host"] == "192.0.2.7"

    def test_otherwise_a_child_process_resolves_the_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_threads(monkeypatch)
        assert {result["host"] for result in resolve("localhost", 8443)} <= {"127.0.0.1", "::1"}

    def test_a_child_process_that_finds_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_threads(monkeypatch)
        with pytest.raises(OSError, match="name not resolved") as caught:
            resolve("a" * 64 + ".example")
        assert caught.value.__cause__ is None
