"""A build plan in words and as figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.network import Network, Role
from trt_engines.bucket import Bucket
from trt_engines.profiles.histogram import Histogram
from trt_engines.profiles.profile import Profile
from trt_export.plan import BuildPlan, EnginePlan, heaviest, network_cost

SIZES = 5
"""Most frequent sizes of the denoiser that are listed with their memory."""

EXAMPLES = 4
"""Sizes named for each reason why some are not served."""


def render(plan: BuildPlan, family: Architecture) -> str:
    """A plan in plain lines, each with a label at its start."""
    return "\n".join(_lines(plan, family))


def _lines(plan: BuildPlan, family: Architecture) -> Iterator[str]:
    yield f"{plan.title} on {plan.card} (SM{plan.sm}, {_gb(plan.memory_bytes)}, {_gb(plan.usable_bytes)} usable)"
    yield f"  memory      {plan.layout}: {_gb(plan.vram_bytes)} at most"
    yield f"  disk        {_gb(plan.disk_bytes)} in {_count(len(plan.engines), 'engine')}"
    yield (
        f"  build       about {_duration(plan.build_seconds)} from checkpoint to certified engines "
        f"({_phases(plan.engines)}), {_gb(plan.build_bytes)} of memory at most"
    )
    yield f"  {'engine':<18}{'type':<10}{'plan':>9}{'context':>9}{'build':>9}{'memory':>9}  profiles"
    for engine in plan.engines:
        ranges = engine.profiles
        yield (
            f"  {engine.component:<18}{engine.precision:<10}{_gb(ranges.disk_bytes):>9}"
            f"{_gb(ranges.activation_bytes):>9}{_duration(engine.build_seconds):>9}{_gb(engine.build_bytes):>9}"
            f"  {', '.join(_profile(one, family.network(engine.component)) for one in ranges.profiles) or 'none'}"
        )
        if engine.streamed_bytes:
            yield f"  {'':<18}{_gb(engine.streamed_bytes)} of its weights are read from host memory at every step: slow"
        if engine.tiles:
            sizes = ", ".join(f"{width}x{height}" for width, height in sorted(engine.tiles, reverse=True))
            share = _percent(sum(engine.tiles.values()))
            yield f"  {'':<18}{share} of jobs are too large for it and go through in tiles of {sizes}"
        if engine.role is Role.AUTOENCODER and ranges.profiles and round(1 - engine.covered_jobs, 4):
            yield f"  {'':<18}{_percent(1 - engine.covered_jobs)} of jobs it takes neither whole nor in tiles"
    for denoiser in plan.denoisers:
        if len(plan.denoisers) > 1:
            yield f"  steps       {denoiser.component}:"
        yield from _expected(denoiser)
        yield from _sizes(denoiser, plan, family)
        yield from _left_out(denoiser)
    for problem in plan.problems:
        yield f"  problem     {problem}"
    for other in plan.alternatives:
        yield f"  or          {other.what} ({_percent(other.covered_jobs)} of jobs)"
    yield "  Times and memory are estimates from measured builds; building measures them."


def _phases(engines: Sequence[EnginePlan]) -> str:
    """Seconds of all engines by phase, as in "export 60 s, build 90 s": the longest first, what takes no second left
    out."""
    total: defaultdict[str, float] = defaultdict(float)
    for engine in engines:
        for phase, seconds in engine.seconds.items():
            total[phase] += seconds
    longest = sorted((phase for phase in total if total[phase] >= 1), key=lambda phase: -total[phase])
    return ", ".join(f"{phase} {_duration(total[phase])}" for phase in longest) or "nothing to do"


def _profile(profile: Profile, network: Network) -> str:
    if not network.sees(Quantity.WIDTH):
        return f"r{profile.rows.label}t{profile.tokens.label}"
    best = profile.best
    return f"{profile.label} (best at {best.width}x{best.height}r{best.rows})"


def _expected(denoiser: EnginePlan) -> Iterator[str]:
    ranges = denoiser.profiles
    yield f"  covered     {_percent(ranges.covered_jobs)} of jobs, {_percent(ranges.covered_work)} of the work"
    split = sum(served.demand.weight for served in ranges.served if served.calls > 1)
    yield (
        f"  lost        {_percent(ranges.padding)} to padding, about {_percent(ranges.slower)} to kernels chosen for "
        f"other sizes and to the {_percent(split)} of jobs whose rows do not fit one call"
    )


def _sizes(denoiser: EnginePlan, plan: BuildPlan, family: Architecture) -> Iterator[str]:
    """The most frequent sizes: how they run and the memory that they need."""
    cost = network_cost(family.network(denoiser.component), family, denoiser.precision)
    by_demand = {served.demand.shape: served for served in denoiser.profiles.served}
    demands = Histogram.of(
        [*(one.demand for one in denoiser.profiles.served), *(one.demand for one in denoiser.profiles.uncovered)]
    )
    weights = denoiser.weight_bytes - denoiser.streamed_bytes
    for demand in heaviest(demands, SIZES):
        served = by_demand.get(demand.shape)
        rows = -(-demand.rows // served.calls) if served else demand.rows
        need = weights + rows * cost.activation_bytes(width=demand.width, height=demand.height, tokens=demand.tokens)
        how = "not served" if served is None else "in one call" if served.calls == 1 else f"in {served.calls} calls"
        bucket = Bucket(width=demand.width, height=demand.height, rows=demand.rows, tokens=demand.tokens)
        yield f"  size        {bucket.label:<20} {_percent(demand.weight):>7} of jobs, {_gb(need)}, {how}"


def _left_out(denoiser: EnginePlan) -> Iterator[str]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    share: defaultdict[str, float] = defaultdict(float)
    for one in denoiser.profiles.uncovered:
        kind = one.reason.partition(":")[0]
        size = f"{one.demand.width}x{one.demand.height}"
        share[kind] += one.demand.weight
        if size not in groups[kind]:
            groups[kind].append(size)
    for kind, sizes in groups.items():
        some = ", ".join(sizes[:EXAMPLES]) + (f" and {len(sizes) - EXAMPLES} more" if len(sizes) > EXAMPLES else "")
        yield f"  not served  {_percent(share[kind])} of jobs, {kind}: {some}"
    if denoiser.profiles.uncovered:
        last = denoiser.profiles.uncovered[-1]
        yield f"  for example {last.demand.label}: {last.reason}"


def figures(plans: Sequence[BuildPlan]) -> dict[str, object]:
    """The plans as figures, by architecture and card: sizes in GB, times in seconds, shares from 0 to 1."""
    return {f"{plan.architecture} on {plan.card}": _figures(plan) for plan in plans}


def _figures(plan: BuildPlan) -> dict[str, object]:
    denoiser = plan.denoiser
    return {
        "layout": plan.layout,
        "vram_gb": _in_gb(plan.vram_bytes),
        "usable_gb": _in_gb(plan.usable_bytes),
        "disk_gb": _in_gb(plan.disk_bytes),
        "build_s": round(plan.build_seconds, 1),
        "build_peak_gb": _in_gb(plan.build_bytes),
        "covered_jobs": round(denoiser.profiles.covered_jobs, 4) if denoiser else 0.0,
        "covered_work": round(denoiser.profiles.covered_work, 4) if denoiser else 0.0,
        "padding": round(denoiser.profiles.padding, 4) if denoiser else 0.0,
        "slower": round(denoiser.profiles.slower, 4) if denoiser else 0.0,
        "engines": {
            engine.component: {
                "precision": engine.precision,
                "profiles": [profile.label for profile in engine.profiles.profiles],
                "plan_gb": _in_gb(engine.profiles.disk_bytes),
                "context_gb": _in_gb(engine.profiles.activation_bytes),
                "streamed_gb": _in_gb(engine.streamed_bytes),
                "build_s": round(engine.build_seconds, 1),
                "phases_s": {phase: round(seconds, 1) for phase, seconds in engine.seconds.items()},
                "build_peak_gb": _in_gb(engine.build_bytes),
            }
            for engine in plan.engines
        },
        "problems": list(plan.problems),
        "alternatives": {other.what: round(other.covered_jobs, 4) for other in plan.alternatives},
    }


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _in_gb(size: int) -> float:
    return round(size / 1e9, 3)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
