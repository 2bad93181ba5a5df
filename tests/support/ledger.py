"""What programs were accepted: each process of a program notes the ids in a file of its own in `LEDGER`.

A message is noted once its call has returned, so what a signal interrupts may have arrived without a note.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def note(ids: Iterable[str]) -> None:
    folder = os.environ.get("LEDGER")
    if folder is not None:
        with open(Path(folder, str(os.getpid())), "a") as file:
            file.write("".join(f"{each}\n" for each in ids))


def noted(folder: Path) -> list[str]:
    return [line for path in folder.iterdir() for line in path.read_text().splitlines()]
