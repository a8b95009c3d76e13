"""Whether a stored plan is for this library and card, before a byte of it is read."""

from __future__ import annotations

from trt_engines.store.identity import IDENTITY_SCHEMA, Identity


def unfit(identity: Identity, library: str, version: str, sm: int) -> str | None:
    """Why a plan cannot run here, and what to do; None: nothing speaks against it.

    TensorRT loads plans of its very version only. Plans of one release of TensorRT-RTX are not compatible with another,
    newer or older; builds of one release are told apart by the library itself, from the plan's header.
    Source: NVIDIA TensorRT-RTX documentation, "Engine Compatibility", and TensorRT documentation, "Version
    Compatibility" (no engine is built as version compatible).

    Args:
        library, version: what would load it.
        sm: compute capability of the card, times ten.
    """
    if identity.library != library:
        return f"it was built for {identity.library}"
    if identity.schema < IDENTITY_SCHEMA:
        return "an older version of this worker built it, whose networks take or give something else: rebuild it"
    if _release(library, identity.library_version) != _release(library, version):
        return f"it was built with version {identity.library_version}, and {version} is installed: rebuild it"
    if sm not in identity.compute_capabilities:
        built = ", ".join(f"SM{one}" for one in identity.compute_capabilities)
        return f"it was built for {built}, and this card is SM{sm}: rebuild it for this card"
    return None


def _release(library: str, version: str) -> str:
    """What of a version must be equal: of TensorRT-RTX all but the number of the build, as in 1.7.1.116."""
    return ".".join(version.split(".")[:3]) if library == "tensorrt-rtx" else version
