"""`python -m trt_export`: see `cli`."""

from trt_export.cli import app

if __name__ == "__main__":  # processes that a build starts import this module again
    app()
