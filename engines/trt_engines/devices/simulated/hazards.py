"""What a program can do wrong with a card. Each names both places, and none is an `EngineError`: a program that has
one is broken on every card, so no failover may hide it. The exception is a full card, which is `OutOfMemory`.

Hazard
+-- Race                    two streams touch the same bytes, one of them writes, and no event orders them
+-- ReadBeforeWait          the host looks at what a stream may not have written yet
+-- WrittenInFlight         the host changes memory that a stream still uses
+-- FreedInFlight           memory is freed, or a graph, that a stream still uses
+-- UsedAfterFree           memory is used or freed that was freed before
+-- NeverWritten            something is read that nothing has written since it was allocated
+-- GraphAddressChanged     a graph is launched after memory that it uses was freed
+-- GraphContextChanged     a context is given rows, tensors or memory while a graph of it is under way, or before
                            one is launched again
+-- CapturedWrongly         memory is allocated or freed, or the host waits, while a graph is captured
+-- EventNeverRecorded      something waits for an event that nothing has recorded
+-- NotTimed                the time of an event is asked for that has none, or not yet
+-- OutsideProfile          an engine is called with a shape that none of its profiles covers
+-- BindingUnset            an engine is called with a tensor that has no address, or one that is too small
+-- ContextOnTwoStreams     an execution context is used on a second stream
OutOfMemory
+-- CardFull                more is allocated than the card has
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trt_engines.devices.errors import DeviceFault
from trt_engines.errors import OutOfMemory

_OURS = ("trt_engines.devices", "trt_engines.sessions", "trt_engines.kernels")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the program that uses the device."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.file}:{self.line}"


def site(what: str) -> Site:
    """The innermost caller outside of the device's own packages."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno, what)


class Hazard(DeviceFault):
    """Base of what a strict device refuses: a defect of ours, with which no job's picture can be trusted.

    Args:
        first: what was done first.
        second: what does not go with it.
    """

    remedy: str

    def __init__(self, first: Site, second: Site) -> None:
        super().__init__(f"{second} does not go with {first}; {self.remedy}")
        self.first = first
        self.second = second


class Race(Hazard):
    remedy = "record an event on the first stream and let the second wait for it"


class ReadBeforeWait(Hazard):
    remedy = "synchronize with the stream, or with an event recorded after the write, first"


class WrittenInFlight(Hazard):
    remedy = "wait until the stream has used the memory, or use another block in turn"


class FreedInFlight(Hazard):
    remedy = "synchronize with the streams that use it first"


class UsedAfterFree(Hazard):
    remedy = "it was already freed"


class NeverWritten(Hazard):
    remedy = "fill it or copy into it first"


class GraphAddressChanged(Hazard):
    remedy = "capture the graph again whenever memory that it uses moves"


class GraphContextChanged(Hazard):
    remedy = "wait for the graph, drop it, run the context plainly, and capture it anew"


class CapturedWrongly(Hazard):
    remedy = "only work for streams can be captured"


class EventNeverRecorded(Hazard):
    remedy = "a card would not wait at all; record the event first"


class NotTimed(Hazard):
    remedy = "make the event for timing, and wait for it before its time is asked for"


class OutsideProfile(Hazard):
    remedy = "the engine needs a profile that covers the shape"


class BindingUnset(Hazard):
    remedy = "bind a buffer of the tensor's full size to every tensor"


class ContextOnTwoStreams(Hazard):
    remedy = "make one context for every stream"


class CardFull(OutOfMemory):
    """More is allocated than the card has.

    Args:
        largest: where the largest living allocation was made.
        asked: where more was asked for.
    """

    def __init__(self, largest: Site, asked: Site) -> None:
        super().__init__(f"the card is full: {asked}; the largest living block is {largest}")
        self.first = largest
        self.second = asked
