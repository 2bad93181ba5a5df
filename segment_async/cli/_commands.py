"""The group of commands, with the list of them."""

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

import click

from segment_async import __version__

_INTERRUPTED: Final = 128 + signal.SIGINT
_COMMANDS: Final = {"dev": "dev", "import": "import_", "plan": "plan", "relay": "relay", "spool": "spool"}


class _Commands(click.Group):
    """Imports the module of a command when that is needed: all of them together take 0.2 s."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"._{cmd_name}", __package__), _COMMANDS[cmd_name])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Ends a command that Ctrl-C interrupts with 130: click would end it with 1, which is a result, such as rejects."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as error:
            # At a question, click makes an `Abort` of it, as of an end of the input and of "no".
            if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            with suppress(OSError):
                click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segment-async")
def segment_async() -> None:
    """Tools for Segment's tracking API."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # A stream that was closed before the start, as by `2>&-`, is `None`.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as the process
    # The terminal's encoding may not have all characters of an event's name, or of ours.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
