"""The command `segment-async`: the entry point, which runs without the extra it needs and says how to get it.

Each sub-command is a module of its own, listed in `_commands`. What a command does belongs to the door it opens; here are
words, options and colours.
"""

import sys


def main() -> None:
    try:
        from ._commands import segment_async
    except ModuleNotFoundError as fault:
        if fault.name is None or fault.name.partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit('segment-async needs the extra "cli": pip install "segment-async[cli]"')
    segment_async()
