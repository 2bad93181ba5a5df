"""The numbers of the command line: each command treats what is no number, or out of range, as wrong usage."""

import math
import sys

import click
import pytest
from click.testing import CliRunner

from segment_async.cli._commands import segment_async
from segment_async.cli._numbers import MOST, Count, Number

ARGUMENTS = {
    "dev": [],
    "import": ["orders.csv"],
    "relay run": ["redis://127.0.0.1:9"],
    "spool dead": ["nowhere"],
    "spool show": ["nowhere"],
}
# What 0 means there: no limit, no waiting, any free port.
ZERO_IS_FINE = {
    ("dev", "--port"),
    ("import", "--give-up-after"),
    ("import", "--rate"),
    ("relay run", "--close-timeout"),
    ("relay run", "--metrics-port"),
}


def commands(group=segment_async, outer=""):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} ")
        else:
            yield outer + name, command


def is_numeric(option):
    return isinstance(option.type, (type(click.INT), type(click.FLOAT)))


NUMERIC = [
    pytest.param(name, command, each, id=f"{name} {each.opts[0]}")
    for name, command in commands()
    for each in command.params
    if isinstance(each, click.Option) and is_numeric(each)
]


def given(name, command, option, text):
    """The option's value in the command's context."""
    context = command.make_context(name, [*ARGUMENTS[name], f"{option.opts[0]}={text}"])
    return context.params[option.name]


def test_these_are_the_numbers():
    found = [(param.values[0], param.values[2].opts[0]) for param in NUMERIC]
    assert found == [
        ("dev", "--port"),
        ("dev", "--rate"),
        ("dev", "--keep"),
        ("import", "--limit"),
        ("import", "--rate"),
        ("import", "--give-up-after"),
        ("relay run", "--rate"),
        ("relay run", "--metrics-port"),
        ("relay run", "--max-in-flight"),
        ("relay run", "--max-queue-size"),
        ("relay run", "--close-timeout"),
        ("relay run", "--lease"),
        ("spool dead", "--limit"),
        ("spool show", "--limit"),
    ]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "-1", "-0.5", "9" * 30, "five", ""])
@pytest.mark.parametrize(("name", "command", "option"), NUMERIC)
def test_what_is_no_number_to_work_with_is_wrong_usage(name, command, option, text):
    with pytest.raises(click.BadParameter) as caught:
        given(name, command, option, text)
    assert caught.value.exit_code == 2
    assert option.opts[0] in caught.value.format_message()


@pytest.mark.parametrize(("name", "command", "option"), NUMERIC)
def test_zero_is_wrong_usage_unless_it_means_something(name, command, option):
    if (name, option.opts[0]) in ZERO_IS_FINE:
        assert given(name, command, option, "0") == 0
        return
    with pytest.raises(click.BadParameter, match="0"):
        given(name, command, option, "0")


@pytest.mark.parametrize(("name", "command", "option"), NUMERIC)
def test_each_default_is_in_range(name, command, option):
    default = command.make_context(name, [*ARGUMENTS[name]]).params[option.name]
    if default is not None:
        assert given(name, command, option, str(default)) == default


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "-2%", "nan%", "inf%", "five", ""])
def test_the_most_rejects(tmp_path, text):
    """A number or a share, which the import checks."""
    path = tmp_path / "orders.csv"
    path.write_text("type,userId,event\ntrack,u,A\n")
    arguments = ["import", str(path), "--destinations=none", "--dry-run", f"--max-rejects={text}"]
    done = CliRunner().invoke(segment_async, arguments)
    assert (done.exit_code, "max-rejects must be a number" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Number(min=0), "nan", "nan is not a number up to 1,000,000,000."),
        (Number(min=0), "inf", "inf is not a number up to 1,000,000,000."),
        (Number(min=0), "-inf", "-inf is not in the range x>=0."),
        (Number(), "-inf", "-inf is not a number up to 1,000,000,000."),
        (Count(), "9" * 30, f"{'9' * 30} is too large: the most is {sys.maxsize:,}."),
        (Count(1), "0", "0 is not in the range x>=1."),
    ],
)
def test_the_error_says_why(kind, text, said):
    with pytest.raises(click.BadParameter) as caught:
        kind.convert(text, None, None)
    assert caught.value.message == said


def test_the_largest_are_fine():
    assert Number(min=0).convert(str(MOST), None, None) == MOST
    assert Count(1).convert(str(sys.maxsize), None, None) == sys.maxsize
    assert math.isfinite(MOST)
