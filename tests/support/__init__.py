"""What the tests stand on: servers that misbehave, a clock that jumps, a network that is simulated, the law.

Each module is for itself and is imported by name (`from tests.support.virtual_clock import run`). Nothing here is
shipped, and nothing here reaches into the client: it is driven and seen from outside.
"""
