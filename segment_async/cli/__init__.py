"""The command `segment-async`: the entry point, which names the extra to install if it is missing.

Each sub-command is a module, listed in `_commands`. This folder contains texts, options and colours; the work is done
by the rest of the package.
"""

import sys


def main() -> None:
    try:
        from ._commands import segment_async

        segment_async()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit('segment-async requires the extra "cli": pip install "segment-async[cli]"')
