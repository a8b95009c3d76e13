"""What sizes dynamic axes have in a bucket."""

from __future__ import annotations

from fractions import Fraction

from trt_engines.architectures.axis import Axis, Quantity


def test_an_axis_is_rounded_up_to_what_its_network_takes() -> None:
    halved = Axis(name="height", quantity=Quantity.HEIGHT, unit=8, multiple=4)
    third = Axis(name="height", quantity=Quantity.HEIGHT, unit=Fraction(128, 3))

    assert [halved.elements(size) for size in (32, 64, 65, 96)] == [4, 8, 12, 12]
    assert [third.elements(size) for size in (128, 129, 170, 171)] == [3, 4, 4, 5]
    assert (halved.step, third.step) == (32, 1)
