"""An external clock: sends its time over loopback every millisecond, and one datagram for each message that is due.

`pinger.py PING_PORT PACE_PORT RATE SECONDS CORE`, a program of its own that uses only the standard library. A rate of 0
sends no messages, a core of `-` does not pin the process. At the end it sends empty datagrams to the second port until
that port is closed: a receiver that falls far behind loses datagrams.
"""

import contextlib
import os
import socket
import sys
import time


def main(ping_port: int, pace_port: int, rate: int, seconds: float) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ping, pace = ("127.0.0.1", ping_port), ("127.0.0.1", pace_port)
    start = time.monotonic_ns()
    pings = paced = 0
    tick = min(1_000_000, 1_000_000_000 // rate) if rate else 1_000_000
    for step in range(1, int(seconds * 1e9) // tick + 1):
        sleep_until(start + step * tick)
        elapsed = time.monotonic_ns() - start
        if pings * 1_000_000 <= elapsed:
            sender.sendto(time.monotonic_ns().to_bytes(8), ping)
            pings = elapsed // 1_000_000 + 1
        while paced * 1_000_000_000 < elapsed * rate:
            sender.sendto(b"+", pace)
            paced += 1
    send_end(pace)


def send_end(pace: tuple[str, int]) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(pace)
    with contextlib.suppress(ConnectionRefusedError):
        for _ in range(600):
            sender.send(b"")
            time.sleep(0.05)


def sleep_until(due: int) -> None:
    left = due - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


if __name__ == "__main__":
    if sys.argv[5] != "-":
        os.sched_setaffinity(0, {int(sys.argv[5])})
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
