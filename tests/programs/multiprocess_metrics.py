"""A client whose metrics are those of three processes: this one, and two that it forks; prints what a scrape sees."""

import os

from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import generate_latest

from segment_async.blocking import Client
from segment_async.prometheus import watch

client = Client("KEY", flush_interval=60)
watch(client)


def work(count: int) -> None:
    for number in range(count):
        client.track("user-1", "Counted", {"n": number})
    client.flush()


work(1)
work(1)
for _ in range(2):
    child = os.fork()
    if not child:
        work(3)
        os._exit(0)
    os.waitpid(child, 0)
client.close()
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
