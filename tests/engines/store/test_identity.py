"""Names of engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trt_engines.store.identity import Identity, InputRange, digest, document

MakeIdentity = Callable[..., Identity]

_HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
_WORD = st.text(max_size=12)
_SHAPE = st.lists(st.integers(1, 2048), min_size=1, max_size=4).map(tuple)


@st.composite
def _range(draw: st.DrawFn) -> InputRange:
    shape = draw(_SHAPE)
    return InputRange(name=draw(_WORD), min=shape, opt=tuple(a + 1 for a in shape), max=tuple(a + 2 for a in shape))


_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "architecture": _WORD,
    "component": _WORD,
    "graph": _HEX,
    "weights": _HEX,
    "precision": _WORD,
    "profiles": st.lists(st.lists(_range(), max_size=2, unique_by=lambda one: one.name).map(tuple), max_size=2).map(
        tuple
    ),
    "flags": st.dictionaries(_WORD, st.booleans() | st.integers() | _WORD, max_size=3),
    "library": _WORD,
    "library_version": _WORD,
    "compute_capabilities": st.frozensets(st.integers(75, 121), max_size=3).map(tuple),
    "driver_class": _WORD,
    "schema": st.integers(0, 9),
}
_IDENTITIES = st.builds(Identity, **_FIELDS)


def test_the_name_of_an_engine_never_changes_within_a_schema(identity: MakeIdentity) -> None:
    assert digest(identity(schema=1)) == "4209b7534456ed6443c6d4274ef69bd0e7375aa167d077f9fb3ccbf94254a4f3"
    assert digest(identity(schema=2)) == "9d4df6a98c5bbb20688c0ec08b3390c598dbbf2824acf3accf1112985b7fc60a"


def test_the_order_in_which_things_without_one_are_given_does_not_count(identity: MakeIdentity) -> None:
    one = identity()
    turned = identity(
        profiles=tuple(tuple(reversed(profile)) for profile in one.profiles),
        flags=dict(reversed(one.flags.items())),
        compute_capabilities=(89, 86, 86),
    )

    assert turned == one
    assert digest(turned) == digest(one)


def test_the_order_of_profiles_counts(identity: MakeIdentity) -> None:
    small, large = (
        (InputRange(name="sample", min=(1,), opt=(1,), max=(1,)),),
        (InputRange(name="sample", min=(1,), opt=(2,), max=(4,)),),
    )

    assert digest(identity(profiles=(small, large))) != digest(identity(profiles=(large, small)))


@given(_IDENTITIES, st.sampled_from(sorted(_FIELDS)), st.data())
def test_an_engine_that_differs_in_any_field_has_another_name(one: Identity, field: str, data: st.DataObject) -> None:
    fields = {name: getattr(one, name) for name in _FIELDS}
    other = Identity(**(fields | {field: data.draw(_FIELDS[field])}))
    assume(repr(getattr(other, field)) != repr(getattr(one, field)))

    assert digest(other) != digest(one)


@given(_IDENTITIES)
def test_the_name_follows_from_what_a_manifest_says(one: Identity) -> None:
    fields = json.loads(json.dumps(document(one)))
    profiles = tuple(
        tuple(
            InputRange(name=i["name"], min=tuple(i["min"]), opt=tuple(i["opt"]), max=tuple(i["max"])) for i in profile
        )
        for profile in fields.pop("profiles")
    )

    assert digest(Identity(profiles=profiles, **fields)) == digest(one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "A" * 64}, "graph"),
        ({"weights": "../../etc"}, "weights"),
        ({"profiles": ((InputRange(name="x", min=(1,), opt=(1,), max=(1,)),) * 2,)}, "twice"),
    ],
)
def test_an_impossible_identity_is_refused(identity: MakeIdentity, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identity(**changes)


@pytest.mark.parametrize("shapes", [((2,), (1,), (3,)), ((1,), (1, 1), (1,))])
def test_an_impossible_range_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="'x'"):
        InputRange(name="x", min=shapes[0], opt=shapes[1], max=shapes[2])
