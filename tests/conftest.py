"""What holds for every test."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: workers share the cores. Numerical libraries read it when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
