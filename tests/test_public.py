"""The public names: what a tool that reads their annotations finds."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from types import ModuleType

import pytest

import eetoolkit
import eetoolkit_runtime


def annotated(value: object) -> Iterator[object]:
    """Yields a public value, and where it is a class its methods and properties too."""
    yield value
    for part in vars(value).values() if inspect.isclass(value) else ():
        found = part.fget if isinstance(part, property) else inspect.unwrap(getattr(part, "__func__", part))
        if inspect.isfunction(found):
            yield found


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in (eetoolkit, eetoolkit_runtime) for name in module.__all__]
)
def test_the_annotations_of_every_public_name_can_be_read_when_it_runs(module: ModuleType, name: str) -> None:
    for value in annotated(getattr(module, name)):
        typing.get_type_hints(value)


def test_annotations_that_cannot_be_read_are_found() -> None:
    class Wrong:
        @property
        def it(self) -> Missing:  # type: ignore[name-defined] # noqa: F821 - what is looked for
            return None

    with pytest.raises(NameError):
        for value in annotated(Wrong):
            typing.get_type_hints(value)
