"""Runs `without_loop.py` in a process that gevent has patched: before the package is imported, or too late."""

import importlib
import runpy
import sys

from gevent import monkey

if sys.argv.pop(1) == "late":
    importlib.import_module("segment_async.blocking")
monkey.patch_all()
runpy.run_module("tests.programs.without_loop", run_name="__main__")
