"""Messages of rows without a mapping: rows that are Segment messages already, columns named like one, a transform."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from functools import partial
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final, cast

from segment_async import MessageError, MessageTooLarge
from segment_async._message.conversions import convert
from segment_async.messages import body_of

from ._report import ImportUsageError
from ._values import Unreadable, as_boolean, exact_json, is_json

Transform = Callable[[dict[str, Any]], Any]
Build = Callable[[Any], list[dict[str, Any]]]

# Of a traceback, within which the transform's line is looked for.
_FRAMES: Final = 100
# What Segment adds on arrival; sent again, it would contradict what Segment adds then.
_OF_ARCHIVES: Final = frozenset(
    {
        *("sentAt", "sent_at", "projectId", "project_id", "receivedAt", "received_at"),
        *("originalTimestamp", "original_timestamp", "message_id"),
    }
)
# What the preparation of a record checks, each in its own way.
_CHECKED: Final = frozenset(
    {
        *("type", "userId", "anonymousId", "groupId", "previousId", "messageId", "timestamp"),
        *("event", "name", "category"),
    }
)


def ready_made(columns: list[str] | None, *, keeps_ids: bool) -> Build:
    """Rows that are Segment messages already, or whose column names are the paths of one (``traits.address.city``)."""
    left_out = _OF_ARCHIVES if keeps_ids else _OF_ARCHIVES | {"messageId"}

    def build(row: dict[str, Any]) -> list[dict[str, Any]]:
        message: dict[str, Any] = {}
        for name, value in row.items():
            if value is None or name in left_out:
                continue
            if "." in name:
                _put(message, name, value)
            else:
                message[name] = value
        return [message]

    if columns is None:
        return build
    return lambda row: build({name: cell for name, cell in zip(columns, row, strict=True) if cell and name})


def _put(message: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    inner = message
    for name in outer:
        held = inner.setdefault(name, {})
        if not isinstance(held, dict):
            raise Unreadable("columns", f"{path!r} is inside of a column that has a value of its own.", path)
        inner = cast("dict[str, Any]", held)
    if outer[:1] == ["integrations"] and isinstance(value, str):
        # As text, "false" would count as true.
        try:
            value = as_boolean(value)
        except Unreadable as error:
            error.path = path
            raise
    inner[last] = value


def check_ready_made(source: str, columns: list[str]) -> None:
    """Raises:
    ImportUsageError: the column names are not those of messages.
    """
    if "type" not in columns:
        raise ImportUsageError(
            f"source {source}, line 1: has no column 'type'. Without a mapping, columns are named as in a message "
            "(type, userId, event, properties.total); write a mapping with --init, and pass it with --map"
        )


def transformed(transform: Transform, columns: list[str] | None) -> Build:
    """Rows that the application's function makes messages of."""

    def cells(row: Any) -> dict[str, Any]:
        return row if columns is None else {name: cell for name, cell in zip(columns, row, strict=True) if cell}

    def build(row: Any) -> list[dict[str, Any]]:
        try:
            made = transform(cells(row))
            # The code of a generator, or of a lazy query, runs only here.
            is_several = isinstance(made, Iterable) and not isinstance(made, MappingOf)
            several: list[Any] = [*made] if is_several else [] if made is None else [made]
        # An exit, such as a script's with code 0, would make the import seem complete; a cancellation is of a loop of the
        # transform's own.
        except (Exception, SystemExit, CancelledError) as error:
            raise Unreadable(
                "transform", f"The transform raised {type(error).__name__}{_place(error, transform)}."
            ) from error
        try:
            messages = [dict(each) for each in several]
        except (TypeError, ValueError):
            raise Unreadable("transform", "The transform must return a message, messages or None.") from None
        for message in messages:
            _encode_values(message)
        return messages

    return build


def _place(error: BaseException, transform: Transform) -> str:
    """The line at which the transform's own file was; not the error's text, which might quote the row."""
    # An exception that is raised again and again, as one of a module, has the frames of all times.
    frames = islice(walk_tb(error.__traceback__), 1, _FRAMES)
    lines = [(frame.f_code.co_filename, line) for frame, line in frames]
    if not lines:
        return ""
    code = getattr(_function_of(transform), "__code__", None)
    own = [line for line in lines if code is not None and line[0] == code.co_filename]
    # What a decorator put around the function may be of another file.
    file = (own or lines)[0][0]
    line = [line for name, line in lines if name == file][-1]
    return f" in line {line} of {Path(file).name}"


def _encode_values(message: dict[str, Any]) -> None:
    """Replace values of other types than JSON's by what is sent for them: that is judged, and goes into the id."""
    given = {name: value for name, value in message.items() if name not in _CHECKED and type(name) is str}
    try:
        if is_json(given):
            return
    except Exception:
        # It holds itself, or the code of a value failed, which `body_of` says.
        pass
    try:
        message.update(exact_json(body_of(given, _Ordered())))
    except MessageTooLarge as error:
        raise Unreadable("message-too-large", f"{error.size:,} bytes of JSON; {error.limit:,} are allowed.") from None
    except MessageError as error:
        raise Unreadable("value", error.problem, error.path) from None


class _Ordered:
    """Converts as the client does, but gives a set an order that is the same in each process: it goes into the message's id."""

    def __init__(self) -> None:
        self._has_failed = False

    def __call__(self, value: Any) -> Any:
        made = convert(value, self)
        kind = cast("type[object]", type(made))
        if (serializer := getattr(cast("Any", type(value)), "__pydantic_serializer__", None)) is not None:
            # It dumped its sets itself, as lists.
            dump = getattr(value, "model_dump", partial(serializer.to_python, value))
            return self._like(made, dump(warnings=False))
        return self._in_order(made) if kind is list and isinstance(value, set | frozenset) else made

    def _like(self, made: Any, given: Any) -> Any:
        """What a model dumped, with those lists in order that are of sets."""
        if isinstance(made, list):
            items = cast("list[object]", made)
            if isinstance(given, set | frozenset):
                return self._in_order(items)
            if isinstance(given, list | tuple) and len(items) == len(kept := list(cast("Iterable[object]", given))):
                return [self._like(item, before) for item, before in zip(items, kept, strict=True)]
        if isinstance(made, dict) and isinstance(given, dict):
            entries, others = cast("dict[str, object]", made), cast("dict[object, object]", given)
            if len(entries) == len(others):
                both = zip(entries.items(), others.values(), strict=True)
                return {key: self._like(item, before) for (key, item), before in both}
        return cast("object", made)

    def _in_order(self, items: list[Any]) -> list[Any]:
        """By their JSON: the `repr` of a set within differs in each process, and that of some objects has an address."""
        if self._has_failed:
            return items
        if {*map(type, items)} in ({str}, {int}):
            return sorted(items)  # in a twentieth of the time
        try:
            texts = sorted(body_of({"": item}, self) for item in items)
        except MessageError:
            # The message cannot be sent, which is said where the whole of it is encoded. Not once more for each set in a set.
            self._has_failed = True
            return items
        return [exact_json(text)[""] for text in texts]


def transform_digest(transform: Transform, name: str) -> str:
    """Changes with the function's name and with its source text; what it calls is not looked at.

    `name` is ``module:function``, as for `load_transform`; if it is empty, the one that the function has itself.
    """
    function = _function_of(transform)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError, ValueError):
        source = ""  # built in, or typed into an interpreter
    module, qualified = (str(getattr(function, each, "")) for each in ("__module__", "__qualname__"))
    named = name or f"{module}:{qualified}"
    # What a decorator returned has the decorator's text.
    return hashlib.sha256(f"{named}\n{source}\n{_definition(*named.partition(':')[::2])}".encode()).hexdigest()


def transform_files(transform: Transform, name: str) -> list[Path]:
    """The files with the transform's text: that of the function, and that of the module that `name` names."""
    function = _function_of(transform)
    module = sys.modules.get(name.partition(":")[0])
    try:
        files = [inspect.getsourcefile(function), getattr(module, "__file__", None)]
    except (TypeError, OSError):
        files = [getattr(module, "__file__", None)]  # built in, or typed into an interpreter
    return [Path(file) for file in dict.fromkeys(files) if file]


def _function_of(transform: Transform) -> Any:
    """What was written down as the transform: without what is wrapped around it."""
    function: Any = transform
    while isinstance(function, partial):
        function = function.func
    try:
        function = inspect.unwrap(function)
    except ValueError:
        return function  # it wraps itself
    # An instance with `__call__` has the text of its class.
    return function if hasattr(function, "__qualname__") else cast("type[object]", type(function))


def _definition(module: str, name: str) -> str:
    """The text of the module's statement that gives this name."""
    try:
        source = inspect.getsource(sys.modules[module])
        statements = ast.parse(source).body
    except (KeyError, OSError, TypeError, SyntaxError):
        return ""
    outer = name.partition(".")[0]
    found = [ast.get_source_segment(source, each) or "" for each in statements if getattr(each, "name", None) == outer]
    return "\n".join(found)


def load_transform(name: str) -> Transform:
    """The function that ``module:function`` names.

    Raises:
        ImportUsageError: there is none.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ImportUsageError(f"transform {name!r}: must be module:function")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module does at its import; a script may end there
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ImportUsageError(f"transform {name!r}: cannot be imported: {kind}{error}") from error
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ImportUsageError(f"transform {name!r}: module {module} has no function {function}")
    return cast("Transform", found)
