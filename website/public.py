"""The public names of the package: every module without an underscore, and what each of them offers.

Pure, apart from importing the modules. It does not know mkdocs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import segment_async

# The command is documented by its own help, and pytest finds its plugin by itself.
NOT_IMPORTED_BY_USERS: Final = {"cli", "pytest_plugin"}


def modules() -> list[str]:
    """Names of the public modules, the package itself first. The specs have a page of their own."""
    found = [
        module.name
        for module in pkgutil.iter_modules(segment_async.__path__)
        if not module.name.startswith("_") and module.name not in NOT_IMPORTED_BY_USERS
    ]
    return ["segment_async", *(f"segment_async.{name}" for name in sorted(found))]


def module(name: str) -> ModuleType:
    """The module, with what it needs to be imported."""
    if name == "segment_async.django":
        from django.conf import settings

        if not settings.configured:
            # Without translations, which need applications that are set up.
            settings.configure(SEGMENT_WRITE_KEY="WRITE_KEY", USE_I18N=False)
    return importlib.import_module(name)


def names(name: str) -> list[str]:
    """The public names of a module: its `__all__`; without one, what it defines itself."""
    imported = module(name)
    listed: list[str] | None = getattr(imported, "__all__", None)
    if listed is None:
        listed = [each for each, thing in vars(imported).items() if _is_defined_in(imported, each, thing)]
    return [each for each in listed if not each.startswith("__") and not inspect.ismodule(getattr(imported, each))]


def _is_defined_in(imported: ModuleType, name: str, thing: Any) -> bool:
    if name.startswith("_") or inspect.ismodule(thing):
        return False
    return getattr(thing, "__module__", None) == imported.__name__


def undocumented() -> list[str]:
    """Public classes, functions, methods and properties without a docstring."""
    return [path for name in modules() for each in names(name) for path in _without_docstring(name, each)]


def _without_docstring(module_name: str, name: str) -> Iterator[str]:
    thing = getattr(module(module_name), name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    if not inspect.getdoc(thing):
        yield f"{module_name}.{name}"
    if not inspect.isclass(thing):
        return
    for attribute, value in vars(thing).items():
        if attribute.startswith("_") or not (inspect.isroutine(value) or isinstance(value, property)):
            continue
        if attribute in _of_protocols():
            continue
        if not inspect.getdoc(getattr(thing, attribute)):
            yield f"{module_name}.{name}.{attribute}"


@functools.cache
def _of_protocols() -> frozenset[str]:
    """Methods that public protocols document, for the classes that implement them."""
    things = [getattr(module(name), each) for name in modules() for each in names(name)]
    return frozenset(
        attribute
        for thing in things
        if getattr(thing, "_is_protocol", False)
        for attribute, value in vars(thing).items()
        if inspect.isroutine(value) and value.__doc__
    )
