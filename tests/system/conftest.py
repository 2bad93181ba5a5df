"""What tests of the whole client share with those of the spool."""

from tests.spool.conftest import disk

__all__ = ["disk"]
