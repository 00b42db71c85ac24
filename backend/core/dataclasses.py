"""`dataclass` and `replace` of the standard library in a quarter of their time: there are hundreds of classes, and making them
was a fifth of a start; `replace` makes each copy field by field.

The standard library compiles up to six functions for each class, one by one. Here `__init__` alone is compiled; the others
are shared, or know the names of the fields. Fields, slots and `asdict` are those of the standard library, and so
is what a type checker sees. docs/decisions/dataclasses.md has the figures.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, NoReturn

__all__ = ["dataclass", "replace"]


def _dataclass(*, slots: Literal[True], frozen: bool = False, eq: bool = True) -> Callable[[type], type]:
    """Make a class a dataclass. What the class defines itself stays."""

    def made(given: type) -> type:
        if given.__doc__ is None:
            given.__doc__ = given.__name__  # the standard library would parse a signature to make one
        cls: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(given)
        own = vars(cls)
        if "__init__" not in own:
            cls.__init__ = _init(cls, frozen=frozen)
        if "__repr__" not in own:
            cls.__repr__ = _repr
        if eq and "__eq__" not in own:
            _compare_by_value(cls, hashed=frozen)
        if frozen:
            _freeze(cls)
        return cls  # type: ignore[no-any-return]

    return made


def _init(cls: Any, *, frozen: bool) -> Any:
    """The `__init__`. Fields of a frozen class are set by their descriptors, which nothing refuses and nothing has to look up."""
    parameters, lines = ["self"], []
    names: dict[str, Any] = {"__name__": cls.__module__, "__MISSING": MISSING}
    for field in fields(cls):
        name, (default, value) = field.name, _values(field, names)
        if field.init:
            parameters.append(name + default)
        if not value:
            continue  # `__post_init__` sets it
        if frozen:
            names[f"__set_{name}"] = getattr(cls, name).__set__
        lines.append(f"__set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    body = "; ".join(lines) or "pass"
    exec(f"def __init__({', '.join(parameters)}): {body}", names)
    names["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    return names["__init__"]


def _values(field: "Field[Any]", names: dict[str, Any]) -> tuple[str, str]:
    """The default of a parameter and the value of its field, as source that uses `names`. The value is empty if there is none."""
    name = field.name
    default, factory = f"__default_{name}", f"__factory_{name}"
    if field.default_factory is not MISSING:
        names[factory] = field.default_factory
        return "=__MISSING", f"{factory}() if {name} is __MISSING else {name}" if field.init else f"{factory}()"
    if field.default is not MISSING:
        names[default] = field.default
        return f"={default}", name if field.init else default
    return "", name if field.init else ""


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{type(self).__qualname__}({shown})"


def _compare_by_value(cls: Any, *, hashed: bool) -> None:
    compared = [field.name for field in fields(cls) if field.compare]
    values = attrgetter(*compared) if compared else lambda _: ()

    def equals(self: object, other: object) -> bool:
        if other is self:
            return True
        return bool(values(self) == values(other)) if other.__class__ is self.__class__ else NotImplemented

    cls.__eq__ = equals
    if not hashed:
        cls.__hash__ = None
    elif vars(cls).get("__hash__") is None:
        cls.__hash__ = lambda self: hash(values(self))


def _freeze(cls: Any) -> None:
    """Refuse assignments, but for those that restore a copy."""
    cls.__setattr__, cls.__delattr__ = _refuse_assignment, _refuse_deletion
    cls.__getstate__, cls.__setstate__ = _state, _restore


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _refuse_assignment(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _replace(given: Any, /, **changes: Any) -> Any:
    """A copy with other values."""
    cls = given.__class__
    names, values = _parameters(cls)
    return cls(**dict(zip(names, values(given), strict=True)) | changes)


@cache
def _parameters(cls: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of the parameters of a class, and what reads their values of an instance."""
    names = tuple(field.name for field in fields(cls) if field.init)
    if len(names) < 2:  # of one, attrgetter returns no tuple
        return names, lambda given: tuple(getattr(given, name) for name in names)
    return names, attrgetter(*names)


if TYPE_CHECKING:
    from dataclasses import dataclass, replace
else:
    dataclass, replace = _dataclass, _replace
