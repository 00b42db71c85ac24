"""Each rule is asked of a class made here and of the same class made by the standard library."""

import copy
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields
from typing import Any

import pytest

from backend.core.dataclasses import dataclass, replace

Make = Callable[..., Callable[[type], Any]]
both = pytest.mark.parametrize("make", [dataclass, dataclasses.dataclass])


def point(make: Make, **options: Any) -> Any:
    class Point:
        x: int
        names: list[str] = field(default_factory=list)
        hidden: str = field(default="", repr=False)
        note: str = field(default="note", compare=False)

    return make(slots=True, **options)(Point)


@both
@pytest.mark.parametrize("frozen", [True, False])
class TestInit:
    def test_the_parameters_are_the_fields(self, make: Make, frozen: bool) -> None:
        made = point(make, frozen=frozen)(1, hidden="h")
        assert asdict(made) == {"x": 1, "names": [], "hidden": "h", "note": "note"}
        assert [each.name for each in fields(made)] == list(inspect.signature(type(made)).parameters)

    def test_a_default_is_made_for_each(self, make: Make, frozen: bool) -> None:
        kind = point(make, frozen=frozen)
        assert kind(1).names is not kind(1).names
        given: list[str] = []
        assert kind(1, given).names is given

    def test_what_does_not_fit_is_refused_by_name(self, make: Make, frozen: bool) -> None:
        kind = point(make, frozen=frozen)
        with pytest.raises(TypeError, match=r"Point.__init__\(\) missing 1 required positional argument: 'x'"):
            kind()
        with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
            kind(1, y=2)

    def test_there_are_no_other_attributes(self, make: Make, frozen: bool) -> None:
        assert not hasattr(point(make, frozen=frozen)(1), "__dict__")

    def test_what_is_not_a_parameter_has_its_default_or_is_set_afterwards(self, make: Make, frozen: bool) -> None:
        class Sum:
            left: int
            total: int = field(init=False)
            seen: list[int] = field(default_factory=list, init=False)
            kept: int = field(default=7, init=False)

            def __post_init__(self) -> None:
                object.__setattr__(self, "total", self.left + 1)

        made = make(slots=True, frozen=frozen)(Sum)(1)
        assert (made.left, made.total, made.seen, made.kept) == (1, 2, [], 7)

    def test_a_class_may_have_no_fields(self, make: Make, frozen: bool) -> None:
        kind = make(slots=True, frozen=frozen)(type("Nothing", (), {}))
        assert kind() == kind()
        assert repr(kind()) == "Nothing()"

    def test_fields_are_inherited(self, make: Make, frozen: bool) -> None:
        class More(point(make, frozen=frozen)):  # type: ignore[misc]
            more: int = 0

        made = make(slots=True, frozen=frozen)(More)(1, more=2)
        assert (made.x, made.more) == (1, 2)

    @pytest.mark.parametrize("replace", [replace, dataclasses.replace])
    def test_a_copy_may_have_other_values(self, make: Make, replace: Callable[..., Any], frozen: bool) -> None:
        class Sum:
            left: int
            right: int = 1
            total: int = field(init=False)

            def __post_init__(self) -> None:
                object.__setattr__(self, "total", self.left + self.right)

        made = make(slots=True, frozen=frozen)(Sum)(1)
        assert (replace(made, left=3).total, made.total) == (4, 2)
        assert replace(made) == made
        for wrong in ({"total": 3}, {"middle": 3}):
            with pytest.raises((TypeError, ValueError)):
                replace(made, **wrong)

    @pytest.mark.parametrize("replace", [replace, dataclasses.replace])
    def test_a_copy_may_have_one_field_or_none(self, make: Make, replace: Callable[..., Any], frozen: bool) -> None:
        class One:
            x: list[int]

        one, none = make(slots=True, frozen=frozen)(One), make(slots=True, frozen=frozen)(type("Nothing", (), {}))
        assert replace(one([1])) == one([1])
        assert replace(one([1]), x=[2]).x == [2]
        assert replace(none()) == none()

    def test_it_can_be_matched(self, make: Make, frozen: bool) -> None:
        kind = point(make, frozen=frozen)
        match kind(1, ["a"]):
            case kind(x, names):
                assert (x, names) == (1, ["a"])
            case _:
                pytest.fail("it did not match")


@both
class TestComparing:
    def test_values_are_equal_if_their_compared_fields_are(self, make: Make) -> None:
        kind, twin = point(make), point(make)
        assert kind(1, note="a") == kind(1, note="b")
        assert kind(1) != kind(2)
        assert kind(1) != twin(1)

    def test_only_what_is_frozen_has_a_hash(self, make: Make) -> None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(point(make)(1))
        frozen = point(make, frozen=True)
        assert len({frozen(1, (), note="a"), frozen(1, (), note="b"), frozen(2, ())}) == 2

    def test_others_are_equal_to_themselves_alone(self, make: Make) -> None:
        kind = point(make, eq=False)
        one = kind(1)
        assert one == one
        assert one != kind(1)
        assert len({one, kind(1)}) == 2


@both
class TestFrozen:
    @pytest.mark.parametrize("name", ["x", "other"])
    def test_nothing_can_be_set_or_deleted(self, make: Make, name: str) -> None:
        made = point(make, frozen=True)(1)
        with pytest.raises((FrozenInstanceError, TypeError)):  # the standard library looks for itself in vain
            setattr(made, name, 2)
        with pytest.raises((FrozenInstanceError, TypeError)):
            delattr(made, name)
        assert made.x == 1

    def test_it_can_be_copied(self, make: Make) -> None:
        made = point(make, frozen=True)(1, ["a"], note="other")
        assert copy.deepcopy(made) == copy.copy(made) == made
        assert (copy.deepcopy(made).names is made.names, copy.copy(made).note) == (False, "other")

    def test_fields_of_others_can(self, make: Make) -> None:
        made = point(make)(1)
        made.x = 2
        assert made.x == 2


@both
class TestRepr:
    def test_it_shows_what_may_be_shown(self, make: Make) -> None:
        shown = repr(point(make)(1, ["a"], hidden="secret"))
        assert shown == f"{point.__qualname__}.<locals>.Point(x=1, names=['a'], note='note')"

    def test_what_contains_itself_is_shown_once(self, make: Make) -> None:
        made = point(make)(1)
        made.names.append(made)
        assert "names=[...]" in repr(made)


@both
def test_what_a_class_defines_itself_stays(make: Make) -> None:
    class Own:
        x: int

        def __init__(self) -> None:
            object.__setattr__(self, "x", 5)

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 9

    made = make(slots=True, frozen=True)(Own)()
    assert (made.x, repr(made), made == 0, hash(made)) == (5, "own", True, 9)


def test_only_classes_with_slots_are_made() -> None:
    with pytest.raises(TypeError, match="slots"):
        dataclass(frozen=True)
