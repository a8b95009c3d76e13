"""Which operations are known to be done before which: a clock with one hand per stream.

Source: Lamport 1978 and Fidge 1988, as race detectors use it: an operation is ordered before another exactly when the
other's clock has reached its number on its own stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trt_engines.devices.device import Stream


@dataclass(frozen=True, slots=True)
class Clock:
    """The latest operation of every stream that is known to be done, by its number there."""

    hands: Mapping[Stream, int] = field(default_factory=dict)

    def merged(self, other: Clock) -> Clock:
        """What either knows."""
        hands = dict(self.hands)
        for stream, number in other.hands.items():
            hands[stream] = max(number, hands.get(stream, 0))
        return Clock(hands)

    def advanced(self, stream: Stream, number: int) -> Clock:
        """The clock after operation `number` of a stream."""
        return Clock({**self.hands, stream: number})

    def knows(self, stream: Stream, number: int) -> bool:
        """Whether that operation is done wherever this clock is."""
        return self.hands.get(stream, 0) >= number
