"""Ends with messages for a host whose name is asked for and never answered, by three clients at once."""

import socket
import sys
import time
from pathlib import Path
from typing import Any

from segment_async import Client, messages


def hang(*_: Any, **__: Any) -> None:
    time.sleep(60)


# Where threads are refused at exit, a child of this very Python asks for names; there it hangs as well.
hanging_python = Path(sys.argv[1]) / "python"
hanging_python.write_text("#!/bin/sh\nexec sleep 60\n")
hanging_python.chmod(0o755)
socket.getaddrinfo = hang  # type: ignore[assignment]
sys.executable = str(hanging_python)

for _ in range(3):
    Client("KEY").enqueue_nowait(messages.track("user-1", "Counted"))
print("at the end")
