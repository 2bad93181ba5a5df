"""What is particular about uWSGI, which makes its `uwsgi` module in its own processes only.

It forks without telling Python, and a thread of Python's that runs at that moment may leave the child with a lock that
is never released. This file knows neither messages nor clients.
"""

from __future__ import annotations

import logging
import sys

_log = logging.getLogger("segment_async")


def will_fork() -> bool:
    """Whether this process loads the application for workers that are forked later, so that no thread must start."""
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and uwsgi.worker_id() == 0 and uwsgi.mule_id() == 0


def warn_without_threads() -> None:
    """Log a warning if other threads stand still while this worker waits for a request."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and "enable-threads" not in uwsgi.opt and "threads" not in uwsgi.opt:
        _log.warning(
            "uWSGI runs without threads: messages are sent only while a request is handled, and when the worker ends. "
            "Start it with --enable-threads."
        )
