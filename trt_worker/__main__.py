"""`python -m trt_worker` is `trt-worker`."""

from trt_worker.cli import main

main()
