"""SQLite's engine, in each of its ways, keeps what every spool must keep."""

from functools import partial

from segment_async.spool import SQLiteSpool

from .contract import SpoolContract


def open_sqlite(folder, **options):
    return SQLiteSpool(folder / "spool" / "analytics.db", **options)


class TestSurvivingPowerLoss(SpoolContract):
    open = staticmethod(open_sqlite)


class TestSurvivingTheProcess(SpoolContract):
    open = staticmethod(partial(open_sqlite, durability="process"))


class TestWithAFallBack(SpoolContract):
    open = staticmethod(partial(open_sqlite, on_failure="memory"))
