"""What a job passes through outside the card: exchanges with the grid, encoding, the uplink; every constant with its
source.

Left out, so that overlapping has less to gain: the store's answer to an upload, the check of a picture, the fetching of
a source image. What a gain over one job at a time hangs on is the line and the exchanges: on a line of 100 Mbit/s, or
with exchanges of 50 ms, 0.27 or 0.29 s of a job can overlap instead of 0.39, and the gain on an RTX 4090 is
1.24 or 1.25 instead of 1.31.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trt_perf.simulation.trace import Job

ENCODE_SECONDS = 0.055
"""Of a megapixel on one thread. `trt_worker.encode.encoder.Encoder`, WebP as delivered (quality 95, method 2), best of
nine on one core of an AMD EPYC: 0.056 over six photographs (astronaut, chelsea, coffee, rocket, motorcycle_left,
hubble_deep_field) that come with scikit-image 0.26, 2.3 megapixels in all; 0.043 to 0.061 each."""

ENCODED_BYTES = 350_000
"""Of a megapixel, from the same measurement: 359 kB over all, 214 to 422 each. Nothing the networks paint was measured:
no checkpoint is at hand."""

MEGABIT = 1e6 / 8  # bytes

UPLINK = 20 * MEGABIT
"""Bytes a second: the least that the regulator of the United States calls fixed broadband (FCC, Section 706 report of
2024: 100 Mbit/s down, 20 up)."""

EXCHANGE_SECONDS = 0.1
"""Assumption: of one exchange with the grid, there and back, what it does meanwhile included. Before an acknowledgement
it looks every uploaded image up in its store and settles the job in its data base. Nobody measured the live grid; on
loopback the next job follows an acknowledgement after 10 to 30 ms."""

ENCODE_THREADS = 4
"""Pictures encoded at a time; the worker takes a thread per core, and a job has four images at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The rig around a card, and its line."""

    threads: int = ENCODE_THREADS  # pictures encoded at a time
    encode_seconds: float = ENCODE_SECONDS  # of a megapixel on one thread
    encoded_bytes: float = ENCODED_BYTES  # of a megapixel
    uplink: float = UPLINK  # bytes a second, all uploads together
    exchange_seconds: float = EXCHANGE_SECONDS  # one question to the grid and its answer

    def encoding_seconds(self, job: Job) -> float:
        """One image of a job to bytes, on one thread."""
        return _megapixels(job) * self.encode_seconds

    def upload_seconds(self, job: Job) -> float:
        """One image's bytes, when it has the line to itself."""
        return _megapixels(job) * self.encoded_bytes / self.uplink

    def seconds_alone(self, job: Job) -> float:
        """A job's seconds outside the card, one stage after the other; its images are encoded side by side."""
        rounds = math.ceil(job.images / self.threads)
        uploads = job.images * self.upload_seconds(job)
        return 2 * self.exchange_seconds + rounds * self.encoding_seconds(job) + uploads


NO_HOST = Host(encode_seconds=0.0, encoded_bytes=0.0, exchange_seconds=0.0)
"""Everything outside the card takes no time."""


def _megapixels(job: Job) -> float:
    return job.width * job.height / 1e6
