"""The library that signs with Ethereum keys, imported without what it does to the interpreter."""

from __future__ import annotations

import sys
from types import ModuleType


def load_eth_account() -> ModuleType:
    """`eth_account`, which takes half a second to import: only those who sign wait for it.

    One of its dependencies, py_ecc, raises Python's recursion limit to 100,000. With that, JSON that a network nests
    50,000 deep overruns the process's stack, and the process is gone; with Python's own limit it is an error.
    """
    limit = sys.getrecursionlimit()
    try:
        import eth_account
        import eth_account.messages
    finally:
        sys.setrecursionlimit(limit)
    library: ModuleType = eth_account
    return library
