"""SQLite's engine, in each of its ways, keeps what every spool must keep."""

from segment_async.spool import SQLiteSpool

from .contract import SpoolContract


class TestSurvivingPowerLoss(SpoolContract):
    def open(self, folder):
        return SQLiteSpool(folder / "spool" / "analytics.db")


class TestSurvivingTheProcess(SpoolContract):
    def open(self, folder):
        return SQLiteSpool(folder / "spool" / "analytics.db", durability="process")


class TestWithAFallBack(SpoolContract):
    def open(self, folder):
        return SQLiteSpool(folder / "spool" / "analytics.db", on_failure="memory")
