"""Engines in words: what they were made of, and how they compared with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

from trt_engines.store.manifest import Certificate, Manifest


def described(manifest: Manifest) -> Iterator[str]:
    """An engine's identity, shapes and phases, a line each."""
    identity = manifest.identity
    cards = ", ".join(f"SM{sm}" for sm in identity.compute_capabilities)
    yield f"engine    {manifest.digest}"
    models = ", ".join(manifest.models)
    yield f"of        {models}: {identity.component} of {identity.architecture}, {identity.precision}"
    yield f"for       {cards}, by {identity.library} {identity.library_version}"
    yield f"flags     {', '.join(f'{name}={value}' for name, value in identity.flags.items()) or 'none'}"
    yield f"graph     {identity.graph}"
    yield f"weights   {identity.weights}"
    for number, profile in enumerate(identity.profiles, 1):
        for shapes in profile:
            ranges = " .. ".join("x".join(map(str, shape)) for shape in (shapes.min, shapes.opt, shapes.max))
            yield f"profile {number} {shapes.name}: {ranges}"
    for phase in manifest.phases:
        yield f"phase     {phase.name}: {phase.seconds:.1f} s, {phase.peak_bytes / 1e9:.2f} GB"
    varies = f", but for {manifest.reproducible}" if manifest.reproducible else ""
    yield f"bytes     {manifest.size:,}, the same at every build{varies}"


def worst(certificate: Certificate) -> str:
    """The worst of a certificate's buckets in one cell: as in "81.8 dB, SSIM 1.0000, 2 buckets, 1 left out"."""
    buckets = list(certificate.figures.get("buckets", {}).values())
    if not buckets:
        return "no buckets"
    bad = sum(int(one["not_finite"]) for one in buckets)
    left_out = len(certificate.figures.get("left_out", ()))
    return ", ".join([
        f"{min(one['psnr'] for one in buckets):.1f} dB",
        f"SSIM {min(one['ssim'] for one in buckets):.4f}",
        f"{len(buckets)} bucket{'s' * (len(buckets) > 1)}",
        *([f"{left_out} left out"] if left_out else []),
        *([f"{bad} values not finite"] if bad else []),
    ])  # fmt: skip


def certified(certificate: Certificate) -> Iterator[str]:
    """A line for each bucket of a certificate, and one for those that it leaves out."""
    by = certificate.figures.get("computed_by", "?")
    for bucket, one in certificate.figures.get("buckets", {}).items():
        yield (
            f"{bucket:<20} max abs {one['max_abs']:.4g}, PSNR {one['psnr']:.1f} dB, SSIM {one['ssim']:.4f}, "
            f"not finite {one['not_finite']:.0f}, by {by}"
        )
    if left_out := certificate.figures.get("left_out"):
        yield f"{'left out':<20} {', '.join(left_out)}: too much to compute without a card"
