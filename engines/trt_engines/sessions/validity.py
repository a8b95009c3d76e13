"""Whether a stored plan is for this library and card, before a byte of it is read."""

from __future__ import annotations

from trt_engines.store.identity import Identity


def unfit(identity: Identity, library: str, version: str, sm: int) -> str | None:
    """Why a plan cannot run here, and what to do; None: nothing speaks against it.

    TensorRT loads plans of its own version only. TensorRT-RTX also loads those of older ones, and says from the plan's
    header whether it can, so its version is not judged here.

    Args:
        library, version: what would load it.
        sm: compute capability of the card, times ten.
    """
    if identity.library != library:
        return f"it was built for {identity.library}"
    if library == "tensorrt" and identity.library_version != version:
        return f"it was built with version {identity.library_version}, and {version} is installed: rebuild it"
    if sm not in identity.compute_capabilities:
        built = ", ".join(f"SM{one}" for one in identity.compute_capabilities)
        return f"it was built for {built}, and this card is SM{sm}: rebuild it for this card"
    return None
