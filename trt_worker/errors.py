"""What can go wrong, one class per thing a caller can do something about.

WorkerError
+-- ConfigError          the operator's file or environment is wrong: say where, exit 2
+-- BadJob               a job cannot be run as it arrived: tell the network, go on
|   +-- UnservableJob    the job is well formed, but asks for what this worker does not serve
|   +-- BadSourceImage   its source image is missing, too large, or not an image
+-- NotAtHand            a device was not told of a job's model: the rig's fault, give the job back
+-- BackendUnsuited      its backend cannot run a job, which was seen before anything ran: the next one may
+-- LateJob              the job cannot be finished before it is due
+-- TransportError       the network could not be talked to
|   +-- AnswerTooLarge   an HTTP answer is larger than anything expected of it: it was not read
|   +-- TransportClosed  this transport is over for good (wrong key, retired server): do not retry
+-- DeviceLost           a device process died or hung: restart it and replay its jobs
|   +-- DeviceAway       there was no process to take a job, which is none the worse for it: place it anew
+-- DeviceUnusable       a device process cannot be started at all, or not in the time that a job has
+-- FrameTooLarge        what is to be told to another process does not fit into a frame: the job it is about ends
"""

from trt_engines.text import message, shown

LONGEST_REASON = 500
"""Characters of what is said of one job."""


class WorkerError(Exception):
    """Base of everything the worker raises on purpose.

    Messages quote what networks and files say: what would steer a terminal is escaped, and what is long is cut.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


class ConfigError(WorkerError):
    """The configuration cannot be used; the message names file, line, key and what is allowed."""


class BadJob(WorkerError):
    """A job cannot be run as it arrived.

    The message is for the operator's log, one line. `public` is what the network may see: it names no file, path or
    address.
    """

    public = "The job could not be run."

    def __init__(self, text: object = "") -> None:
        super().__init__(shown(text, LONGEST_REASON))


class UnservableJob(BadJob):
    """The job asks for a model, node, sampler or feature that this worker does not serve."""

    public = "This worker does not serve what the job asks for."


class BadSourceImage(BadJob):
    """The source image could not be fetched, is too large, or is not an image."""

    public = "The source image could not be used."


class NotAtHand(WorkerError):
    """A device was never told of the model or backend that a job is for: the supervisor offered what it should not."""


class BackendUnsuited(WorkerError):
    """The backend that was chosen cannot run the job, as is seen only once its prompts are encoded; nothing failed."""


class LateJob(WorkerError):
    """The job cannot be finished before it is due."""


class TransportError(WorkerError):
    """The network could not be reached or answered something unusable; trying again may help."""


class AnswerTooLarge(TransportError):
    """An HTTP answer holds more bytes, decompressed, than anything that is expected of it; the rest was not read."""


class TransportClosed(TransportError):
    """This transport cannot earn any more until the operator changes something: never retried."""


class DeviceLost(WorkerError):
    """A device process died, hung or broke its protocol; its jobs are replayed."""


class DeviceAway(DeviceLost):
    """A device had no process to take a job, or lost it before the job was handed over."""


class DeviceUnusable(WorkerError):
    """A device process could not be started, or will not be there in the time that a job has."""


class FrameTooLarge(WorkerError):
    """A frame is larger than the other process reads: it was not sent."""
