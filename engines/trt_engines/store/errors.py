"""What can go wrong with stored engines.

StoreError             (an EngineError)
+-- UnknownEngine      no stored engine, or several, go by this digest
+-- StoreFull          the disk has no room: free some and go on, nothing was lost
+-- DamagedEngine      files or manifest are not what was published: rebuild or import again
+-- UncertifiedEngine  it failed its fidelity certificate: it is kept for inspection only
+-- NewerManifest      a newer worker wrote it: update this one
+-- WaitingStopped     the caller gave up waiting for another process: nothing was changed
+-- BadArchive         an archive is cut short, foreign or tampered with: nothing of it was kept
"""

from __future__ import annotations

from trt_engines.errors import EngineError


class StoreError(EngineError):
    """Base of what the store raises on purpose."""


class UnknownEngine(StoreError):
    """No stored engine goes by this digest, or more than one does."""


class StoreFull(StoreError):
    """The disk has no room for what was to be written; the message says how much was needed and how much is free."""


class DamagedEngine(StoreError):
    """A stored engine's files or manifest are not what was published; the message lists every difference."""


class UncertifiedEngine(StoreError):
    """A stored engine failed its fidelity certificate."""


class NewerManifest(StoreError):
    """A manifest has a schema that this version does not know."""


class WaitingStopped(StoreError):
    """The caller gave up waiting for a process that is at the same engine."""


class BadArchive(StoreError):
    """An archive of an engine cannot be imported; the message says what is wrong with it."""
