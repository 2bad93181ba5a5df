"""Settings of hypothesis for all tests: the same examples in every run, without a deadline."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
