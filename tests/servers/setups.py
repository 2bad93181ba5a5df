"""What is run, as a table: servers, workers and programs, and the ways in which they end."""

import os
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tests.support.programs import ROOT

UWSGI = shutil.which("uwsgi", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
FLASK, DJANGO = "tests.programs.flask_shop:app", "tests.programs.django_shop.wsgi:application"
DJANGO_ASGI = "tests.programs.django_shop.asgi:application"


@dataclass(frozen=True)
class Setup:
    """Attributes:
    command: of a Python process; `PORT` in it is a free port, `COUNT` the number of messages.
    amid: the signal comes amid the work.
    ends_with: this signal; `None`: by itself.
    whole_group: the signal goes to all of its processes, as systemd sends it, and a terminal.
    needs: a module without which it is left out.
    """

    name: str
    kind: Literal["web", "celery", "program"]
    command: tuple[str, ...]
    ends_with: signal.Signals | None = signal.SIGTERM
    amid: bool = False
    whole_group: bool = False
    needs: str = ""

    @property
    def is_possible(self) -> bool:
        return (not self.needs or find_spec(self.needs) is not None) and "" not in self.command


def _gunicorn(application: str, *options: str) -> tuple[str, ...]:
    return ("-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket", *options, application)


def _uwsgi(application: str, *options: str) -> tuple[str, ...]:
    start = "import os, sys; os.environ['VIRTUAL_ENV'] = sys.prefix; os.execv(sys.argv[1], sys.argv[1:])"
    serve = ("--master", "--processes", "2", "--need-app", "--http-socket", "127.0.0.1:PORT")
    # A worker that is ended amid a request, as with --die-on-term, runs no exit hooks.
    serve += ("--hook-master-start", "unix_signal:15 gracefully_kill_them_all")
    code = ("--chdir", str(ROOT), "--pythonpath", str(ROOT), "--module", application)
    return ("-c", start, UWSGI or "", *serve, *code, *options)


def _celery(*options: str) -> tuple[str, ...]:
    return ("-m", "celery", "-A", "tests.programs.celery_shop", "worker", "-l", "INFO", *options)


def _program(how: str) -> tuple[str, ...]:
    return ("-m", "tests.programs.without_loop", how, "COUNT")


def _web() -> Iterable[Setup]:
    recycled = ("--max-requests", "60")
    for name, application in (("Flask", FLASK), ("Django", DJANGO)):
        for options in (
            ("-w", "2"),
            ("-w", "2", "--preload"),
            ("-w", "2", *recycled),
            ("-w", "2", "--preload", *recycled),
            ("-k", "gthread", "-w", "2", "--threads", "4"),
            ("-k", "gthread", "-w", "2", "--threads", "4", "--preload"),
            ("-k", "gthread", "-w", "2", "--threads", "4", *recycled),
        ):
            yield Setup(f"{name}, gunicorn {' '.join(options)}", "web", _gunicorn(application, *options))
        yield Setup(f"{name}, gunicorn -k gevent", "web", _gunicorn(application, "-k", "gevent"), needs="gevent")
        everyone = Setup(
            f"{name}, gunicorn, SIGTERM to all", "web", _gunicorn(application, "-w", "2"), whole_group=True
        )
        yield everyone
        for flags in (
            (),
            ("--enable-threads",),
            ("--enable-threads", "--lazy-apps"),
            ("--threads", "2"),
            ("--enable-threads", *recycled),
            ("--enable-threads", "--skip-atexit-teardown"),
        ):
            yield Setup(f"{name}, uWSGI {' '.join(flags)}".strip(), "web", _uwsgi(application, *flags))
    uvicorn = ("-m", "uvicorn", "--port", "0", "--no-proxy-headers", DJANGO_ASGI)
    yield Setup("Django, uvicorn", "web", uvicorn)
    workers = _gunicorn(DJANGO_ASGI, "-k", "uvicorn_worker.UvicornWorker", "-w", "2")
    yield Setup("Django, gunicorn -k uvicorn_worker", "web", workers, needs="uvicorn_worker")


def _workers() -> Iterable[Setup]:
    for pool in ("prefork", "solo", "threads"):
        command = _celery("-P", pool, "-c", "2")
        yield Setup(f"Celery {pool}, warm shutdown", "celery", command)
        yield Setup(f"Celery {pool}, warm shutdown amid tasks", "celery", command, amid=True)
        yield Setup(f"Celery {pool}, SIGTERM to all", "celery", command, whole_group=True)
        yield Setup(f"Celery {pool}, cold shutdown", "celery", command, ends_with=signal.SIGQUIT)
    recycled = _celery("-P", "prefork", "-c", "2", "--max-tasks-per-child", "20")
    yield Setup("Celery prefork, --max-tasks-per-child", "celery", recycled)
    gevent = _celery("-P", "gevent", "-c", "10")
    yield Setup("Celery gevent, warm shutdown", "celery", gevent, needs="gevent")


def _programs() -> Iterable[Setup]:
    for how in (
        "ends",
        "threads",
        "scheduled_by_daemons",
        "forks",
        "forks_in_a_thread",
        "multiprocessing_fork",
        "multiprocessing_spawn",
        "multiprocessing_forkserver",
        "in_a_pool",
        "in_an_executor",
        "forks_while_threads_track",
    ):
        yield Setup(f"a program, {how}", "program", _program(how), ends_with=None)
    yield Setup("a program, SIGTERM", "program", _program("sleeps"))
    yield Setup("a program, SIGTERM amid calls", "program", _program("never_stops"), amid=True)
    yield Setup("a program, scheduled, SIGTERM", "program", _program("scheduled"))
    yield Setup("a program, scheduled, Ctrl-C", "program", _program("scheduled"), ends_with=signal.SIGINT)
    patched = ("-m", "tests.programs.gevent_first", "early", "with_gevent", "COUNT")
    yield Setup("a program, gevent", "program", patched, ends_with=None, needs="gevent")


SETUPS = [setup for setup in (*_web(), *_workers(), *_programs()) if setup.is_possible]
