"""The group of commands, with the list of them."""

import click

from segment_async import __version__

from ._dev import dev
from ._import import import_
from ._plan import plan
from ._relay import relay
from ._spool import spool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segment-async")
def segment_async() -> None:
    """Tools for Segment's tracking API."""


segment_async.add_command(dev)
segment_async.add_command(plan)
segment_async.add_command(import_)
segment_async.add_command(relay)
segment_async.add_command(spool)
