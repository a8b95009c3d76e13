"""What can go wrong with a device, beside `OutOfMemory`.

EngineError
+-- DeviceUnavailable   this machine has no such device, or the library for it is missing; says what to install
+-- CaptureRefused      work cannot be captured into a graph; it can be run plainly, and nothing else is affected
DeviceFault             the device reported an error; CUDA's are sticky, so the process that sees one must end
"""

from __future__ import annotations

from trt_engines.errors import EngineError


class DeviceUnavailable(EngineError):
    """There is no such device here, or its driver or library is missing."""


class CaptureRefused(EngineError):
    """Work that cannot be captured into a graph. The device is as it was."""


class DeviceFault(Exception):
    """The device reported an error. Nothing that ran on it can be trusted; the process must end.

    It is no `EngineError`: no failover within the process may take it for the fault of one engine and go on.
    """
