"""What can go wrong with a network.

EngineError
+-- ModelUnusable     a model folder is incomplete or its description is wrong
+-- EngineRefused     no backend can run this network here; the message says why for each
+-- StaleEngine       the built engine no longer matches its graph, weights or libraries: rebuild
+-- OutOfMemory       the device has no room; free something, retry once, then the next backend
+-- EngineFault       the engine ran and failed
    +-- NotFinite     it returned values that are not finite: its doing, or what it was given
"""

from trt_engines.text import message


class EngineError(Exception):
    """Base of everything this package raises on purpose.

    Messages quote files that came from elsewhere: what would steer a terminal is escaped, and what is long is cut.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


class ModelUnusable(EngineError):
    """A model folder is incomplete or its description is wrong; the message names file and field."""


class EngineRefused(EngineError):
    """No backend can run this network here."""


class StaleEngine(EngineError):
    """A built engine no longer matches what it was built from."""


class OutOfMemory(EngineError):
    """The device has no room for this engine or this batch."""


class EngineFault(EngineError):
    """The engine failed while running."""


class NotFinite(EngineFault):
    """The engine returned values that are not finite: it is at fault, or what it was given is."""
