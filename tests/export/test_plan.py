import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.axis import ROWS, TOKENS, Axis, Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.latent_format import LatentFormat
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, Time
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.profiles.histogram import Demand, Histogram, write_histogram
from trt_engines.tiles import SIDES
from trt_export.checkpoints.binding import StoredWeights
from trt_export.cli import app
from trt_export.estimates import COMMAND_SECONDS, PHASES
from trt_export.plan import (
    BuildPlan,
    Limits,
    default_for,
    heaviest,
    make_plan,
    network_cost,
    network_histogram,
    precision_of,
)
from trt_export.plan_report import figures, render

GB = 10**9
HEIGHT = Axis(name="height", quantity=Quantity.HEIGHT, unit=8, multiple=8)
WIDTH = Axis(name="width", quantity=Quantity.WIDTH, unit=8, multiple=8)
LATENT = Tensor(name="sample", shape=(ROWS, 4, HEIGHT, WIDTH))
CONTEXT = Tensor(name="context", shape=(ROWS, TOKENS, 768))
TIMESTEP = Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32)
IDS = Tensor(name="input_ids", shape=(ROWS, 77), kind=Kind.INT64)


@dataclass(frozen=True)
class ACard:
    name: str = "RTX 3060"
    sm: int = 86
    memory_bytes: int = 12 * GB
    precisions: frozenset[str] = frozenset({"float32", "float16", "bfloat16"})
    tensor_cores: bool = True
    unsupported: str | None = None


def a_network(name: str, role: Role, inputs: tuple[Tensor, ...], **changes: Any) -> Network:
    plain = Network(
        name=name,
        role=role,
        ports=Ports(inputs=inputs, outputs=()),
        folders=(),
        parameters=860_000_000,
        cost=Cost(cell=8, per_cell=1.8e8, per_cell_squared=3e3, per_cell_token=1e4, activation_bytes_per_cell=60_000),
    )
    return replace(plain, **changes)


def a_text_encoder(**changes: Any) -> Network:
    return a_network("text_encoder", Role.TEXT_ENCODER, (IDS,), **changes)


def an_architecture(denoiser_parameters: int = 860_000_000, **changes: Any) -> Architecture:
    """In the proportions of Stable Diffusion 1.5."""
    plain = Architecture(
        name="small",
        title="Small",
        aliases=(),
        networks=(
            a_text_encoder(
                parameters=123_000_000, cost=Cost(cell=0, per_token=2.4e8, activation_bytes_per_token=20_000)
            ),
            a_network("denoiser", Role.DENOISER, (LATENT, TIMESTEP, CONTEXT), parameters=denoiser_parameters),
            a_network(
                "vae_decoder",
                Role.AUTOENCODER,
                (LATENT,),
                parameters=49_500_000,
                precisions=("bfloat16", "float32"),
            ),
        ),
        prompting=Prompting(encoders=(), lengths=Lengths.REPEATED),
        passes=(
            Pass(
                denoiser="denoiser",
                latent=LatentFormat(channels=4, pixels=8),
                levels=NoiseLevels(prediction=Prediction.EPSILON, time=Time.DISCRETE, units=1000),
                guidance=Guidance(kind=GuidanceKind.CLASSIFIER_FREE, default=7.5),
            ),
        ),
        decoder="vae_decoder",
        encoder="vae_encoder",
        native_side=512,
        size_step=64,
        tokens=(77, 154, 231),
    )
    return replace(plain, **changes)


def a_histogram(*sizes: tuple[int, int]) -> Histogram:
    return Histogram.of(
        Demand(width=width, height=height, rows=2 * images, tokens=tokens)
        for width, height in sizes or [(512, 512), (768, 768), (1024, 1024)]
        for images in (1, 4)
        for tokens in (77, 154)
    )


def a_plan(
    architecture: Architecture | None = None,
    card: ACard | None = None,
    histogram: Histogram | None = None,
    disk: int = 100 * GB,
    host: int = 64 * GB,
) -> BuildPlan:
    return make_plan(
        architecture or an_architecture(),
        card or ACard(),
        Limits(disk_bytes=disk, host_bytes=host),
        histogram or a_histogram(),
    )


def test_a_model_that_fits_has_an_engine_for_each_network_and_serves_everything() -> None:
    plan = a_plan()

    assert [engine.component for engine in plan.engines] == ["text_encoder", "denoiser", "vae_decoder"]
    assert plan.layout == "all networks stay on the card"
    assert plan.vram_bytes <= plan.usable_bytes < plan.memory_bytes
    assert plan.denoiser is not None
    assert plan.denoiser.profiles.covered_jobs == 1
    assert plan.problems == ()
    assert plan.alternatives == ()


def test_a_card_that_is_too_small_for_all_networks_lets_the_text_encoder_leave() -> None:
    text = a_text_encoder(parameters=5_000_000_000, cost=Cost(cell=0, per_token=8e9))
    family = an_architecture()
    family = replace(family, networks=(text, *family.networks[1:]))

    plan = a_plan(family)

    assert plan.layout == "text encoders leave the card once a prompt is encoded"
    assert plan.vram_bytes <= plan.usable_bytes


def test_weights_that_do_not_fit_at_all_are_streamed() -> None:
    plan = a_plan(an_architecture(denoiser_parameters=12_000_000_000))

    assert plan.layout.endswith("streamed from host memory")
    assert plan.denoiser is not None
    assert plan.denoiser.streamed_bytes > 10 * GB
    assert plan.vram_bytes <= plan.usable_bytes
    assert "read from host memory at every step" in render(plan, an_architecture(denoiser_parameters=12_000_000_000))


def test_a_text_encoder_that_does_not_fit_is_streamed_too() -> None:
    text = a_text_encoder(parameters=5_000_000_000, cost=Cost(cell=0, per_token=8e9))
    family = replace(an_architecture(), networks=(text, *an_architecture().networks[1:]))

    plan = a_plan(family, ACard(memory_bytes=6 * GB))

    encoder = plan.engine("text_encoder")
    assert encoder is not None
    assert encoder.streamed_bytes > 4 * GB
    assert plan.denoiser is not None
    assert plan.denoiser.profiles.covered_jobs == 1
    assert plan.vram_bytes <= plan.usable_bytes


def test_a_model_that_fits_in_no_way_is_laid_out_as_small_as_can_be_and_counts_no_memory() -> None:
    family = an_architecture()
    decoder = replace(family.network("vae_decoder"), parameters=20_000_000_000)
    family = replace(family, networks=(*family.networks[:2], decoder))

    plan = a_plan(family)

    assert plan.layout.startswith("one network at a time")
    assert plan.problems
    assert 0 <= plan.vram_bytes <= plan.usable_bytes
    assert " -" not in render(plan, family)


def test_smaller_weights_are_offered_only_where_the_card_computes_in_them() -> None:
    large = an_architecture(denoiser_parameters=6_000_000_000)
    ada = ACard(precisions=ACard().precisions | {"float8"}, sm=89)

    offered = [other.what for other in a_plan(large, ada).alternatives]
    refused = [other.what for other in a_plan(large).alternatives]

    assert any("float8" in what for what in offered)
    assert not any("float8" in what for what in refused)


def test_a_smaller_denoiser_is_offered_where_it_spares_streaming() -> None:
    huge = an_architecture(denoiser_parameters=7_000_000_000)

    plan = a_plan(huge, ACard(precisions=ACard().precisions | {"float8"}, sm=89))

    assert plan.layout.endswith("streamed from host memory")
    assert [other.what for other in plan.alternatives] == [
        "take the model's float8 (e4m3) file; then all networks stay on the card"
    ]


def test_pictures_too_large_for_the_decoder_go_through_in_tiles() -> None:
    family = an_architecture()
    decoder = family.network("vae_decoder")
    decoder = replace(decoder, cost=replace(decoder.cost, activation_bytes_per_cell=1_000_000))
    family = replace(family, networks=(*family.networks[:2], decoder))

    plan = a_plan(family)

    assert plan.denoiser is not None
    assert plan.denoiser.profiles.covered_jobs == 1
    assert plan.problems == ()
    built = plan.engine("vae_decoder")
    assert built is not None
    assert built.tiles
    assert built.covered_jobs == pytest.approx(1)
    for width, height in built.tiles:  # the worker asks for exactly these, and a profile takes them
        assert max(width, height) in SIDES
        assert any(width in one.width and height in one.height for one in built.profiles.profiles)
        assert f"{width}x{height}" in render(plan, family)
    assert "go through in tiles of" in render(plan, family)


def test_a_decoder_for_pictures_that_are_all_too_large_is_built_for_their_tiles() -> None:
    family = an_architecture()
    decoder = family.network("vae_decoder")
    decoder = replace(decoder, cost=replace(decoder.cost, activation_bytes_per_cell=1_000_000))
    family = replace(family, networks=(*family.networks[:2], decoder))

    plan = a_plan(family, histogram=a_histogram((1536, 1024)))

    built = plan.engine("vae_decoder")
    assert built is not None
    assert built.tiles == {(512, 512): 1.0}  # 768x768 has 9,216 cells of a million bytes: too much beside 2 GB weights
    assert plan.problems == ()


def test_sizes_that_do_not_fit_are_named_with_the_reason_and_another_way() -> None:
    histogram = a_histogram(*[(512, 512)] * 9, (4096, 4096))
    plan = a_plan(card=ACard(memory_bytes=8 * GB), histogram=histogram)

    text = render(plan, an_architecture())

    assert "not served" in text
    assert "4096x4096" in text
    assert "too large for this card" in text
    assert any("fallback" in other.what for other in plan.alternatives)


def test_a_network_that_no_type_of_the_card_suits_is_a_problem() -> None:
    family = an_architecture()
    decoder = replace(family.network("vae_decoder"), precisions=("bfloat16",))
    family = replace(family, networks=(*family.networks[:2], decoder))

    plan = a_plan(family, ACard(name="GTX 1660", sm=75, precisions=frozenset({"float32"})))

    assert [problem for problem in plan.problems if "vae_decoder" in problem and "SM75" in problem]
    assert plan.engine("vae_decoder") is None
    assert plan.engine("denoiser") is not None


def test_a_machine_without_the_memory_for_a_build_is_told_before_it_starts() -> None:
    plan = a_plan(host=4 * GB)

    assert [problem.partition(" takes about ")[0] for problem in plan.problems] == ["denoiser: building it"]
    assert "GB of memory and 4.0 GB are there" in plan.problems[0]


def test_the_disk_is_shared_by_the_engines_and_its_end_is_a_problem() -> None:
    plan = a_plan(disk=19 * GB // 10)  # enough for each of them, not for all

    assert 0 < plan.disk_bytes <= 19 * GB // 10
    assert any(problem.startswith("denoiser: no disk for the engine") for problem in plan.problems)


@pytest.mark.parametrize(
    ("parameters", "seconds", "peak"), [(859_500_000, (22, 31), 5.8), (2_567_500_000, (110, 110), 17.6)]
)
def test_estimates_stay_near_the_measured_builds(parameters: int, seconds: tuple[float, float], peak: float) -> None:
    plan = make_plan(
        an_architecture(denoiser_parameters=parameters),
        ACard(memory_bytes=24 * GB),
        Limits(disk_bytes=100 * GB, host_bytes=64 * GB, profiles=1),
        a_histogram(),
    )

    denoiser = plan.engine("denoiser")
    assert denoiser is not None
    assert 0.6 * seconds[0] <= denoiser.seconds["build"] <= 1.6 * seconds[1]
    assert denoiser.build_bytes / 1e9 == pytest.approx(peak, rel=0.05)


def test_each_network_gets_the_rows_that_it_runs() -> None:
    family = an_architecture()
    histogram = Histogram.of([Demand(width=512, height=512, rows=8, tokens=154)])

    rows = {one.name: network_histogram(one, family, histogram).demands[0].rows for one in family.networks}

    assert rows == {"text_encoder": 4, "denoiser": 8, "vae_decoder": 1}  # two prompts of two chunks


def test_the_type_of_a_network_is_the_first_that_the_card_has() -> None:
    network = an_architecture().network("denoiser")

    assert precision_of(network, ACard()) == "float16"
    assert precision_of(network, ACard(precisions=frozenset({"float32"}))) == "float32"
    assert precision_of(network, ACard(precisions=frozenset())) is None


def test_a_card_without_tensor_cores_computes_in_full_precision() -> None:
    plan = a_plan(card=ACard(name="GTX 1660", sm=75, precisions=frozenset({"float32", "float16"}), tensor_cores=False))

    assert {engine.precision for engine in plan.engines} == {"float32"}


def test_a_card_that_nothing_is_built_for_says_why_once() -> None:
    plan = a_plan(card=ACard(name="GTX 1080", sm=61, precisions=frozenset(), unsupported="older than Turing"))

    assert plan.problems == ("older than Turing",)
    assert plan.engines == ()
    assert "older than Turing" in render(plan, an_architecture())


def test_full_precision_takes_twice_the_memory() -> None:
    family = an_architecture()
    half = network_cost(family.network("denoiser"), family, "float16")
    full = network_cost(family.network("denoiser"), family, "float32")

    assert full.weight_bytes == 2 * half.weight_bytes
    size = {"width": 512, "height": 512, "tokens": 77}
    assert full.activation_bytes(**size) == 2 * half.activation_bytes(**size)


def test_the_report_says_every_engine_the_coverage_and_the_frequent_sizes() -> None:
    histogram = default_for(an_architecture())
    plan = a_plan(histogram=histogram)

    text = render(plan, an_architecture())

    for said in ("Small on RTX 3060 (SM86, 12.0 GB", "text_encoder", "denoiser", "vae_decoder", "covered", "estimates"):
        assert said in text
    first = heaviest(histogram, 1)[0]
    assert f"{first.width}x{first.height}r{first.rows}t{first.tokens}" in text


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_command_prints_a_registered_architecture_and_writes_its_figures(tmp_path: Path) -> None:
    tally, target = tmp_path / "tally.json", tmp_path / "plan.json"
    write_histogram(tally, [Demand(width=1024, height=1024, rows=1, tokens=256, weight=7)])

    result = run("flux_dev", "--gpu", "RTX 3060", "--histogram", str(tally), "--json", str(target), "--disk-gb", "100")

    assert result.exit_code == 0, result.output
    assert "Flux.1 dev on RTX 3060" in result.output
    assert list(orjson.loads(target.read_bytes())["figures"]) == ["flux_dev on RTX 3060"]


def test_a_model_is_planned_in_its_own_sizes(tmp_path: Path) -> None:
    tally = tmp_path / "tally.json"
    write_histogram(tally, [Demand(width=128, height=128, rows=2, tokens=77)])

    result = run("shapes-tiny", "--gpu", "SM86", "--histogram", str(tally))

    assert result.exit_code == 0, result.output
    (disk,) = (line for line in result.output.splitlines() if line.startswith("  disk"))
    assert disk.endswith("0.1 GB in 4 engines")  # the architecture's own sizes take gigabytes


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a card")
def test_without_a_card_the_option_that_names_one_is_told() -> None:
    result = run("flux_dev")

    assert result.exit_code == 2
    assert '--gpu "RTX 3060"' in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flux_dev", "--gpu", "Voodoo 2"], "no card is known as 'Voodoo 2'"),
        (["no_such_model", "--gpu", "RTX 3060"], "known architectures are"),
        (["flux_dev", "--gpu", "RTX 3060", "--histogram", "none.json"], "none.json"),
    ],
)
def test_a_wrong_name_or_file_is_answered_with_what_would_be_right(arguments: list[str], said: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.output


def test_figures_are_by_architecture_and_card() -> None:
    entry = figures([a_plan()])["small on RTX 3060"]

    assert isinstance(entry, dict)
    assert entry["covered_jobs"] == 1
    assert entry["engines"]["denoiser"]["precision"] == "float16"
    assert entry["build_peak_gb"] > 5


def stored(component: str, **sizes: int) -> dict[str, StoredWeights]:
    return {component: StoredWeights(sizes=sizes)}


def planned(card: ACard, held: dict[str, StoredWeights], denoiser_parameters: int = 860_000_000) -> BuildPlan:
    limits = Limits(disk_bytes=100 * GB, host_bytes=64 * GB)
    return make_plan(an_architecture(denoiser_parameters), card, limits, a_histogram(), held)


ADA = ACard(name="RTX 4090", sm=89, memory_bytes=24 * GB, precisions=ACard().precisions | {"float8"})


def test_a_float8_file_is_planned_by_its_own_size_and_a_float32_file_by_what_is_read_of_it() -> None:
    float8, float16, float32 = (
        planned(ADA, stored("denoiser", **sizes), 6 * GB).engine("denoiser")
        for sizes in ({"F8_E4M3": 6 * GB}, {"F16": 12 * GB}, {"F32": 24 * GB})
    )

    assert float8 is not None
    assert float16 is not None
    assert float32 is not None
    assert float8.weight_bytes == 6 * GB
    assert float16.weight_bytes == float32.weight_bytes == 12 * GB  # engines of both compute in float16
    assert float8.build_bytes < float16.build_bytes < float32.build_bytes
    assert float8.profiles.disk_bytes < 7 * GB


def test_float8_weights_are_a_problem_on_a_card_that_has_no_float8_and_no_smaller_file_is_offered_beside_them() -> None:
    held = stored("denoiser", F8_E4M3=14 * GB)

    refused, taken = planned(ACard(), held, 14 * GB), planned(ADA, held, 14 * GB)

    assert refused.engine("denoiser") is None
    assert any("SM86 cannot compute in float8" in problem and "fp16 file" in problem for problem in refused.problems)
    assert not any("float8" in other.what for other in taken.alternatives)


def test_the_time_of_a_build_is_that_of_all_phases_of_all_engines_and_of_starting_the_command() -> None:
    plan = a_plan()

    assert all(engine.seconds.keys() == set(PHASES) for engine in plan.engines)
    assert plan.build_seconds == COMMAND_SECONDS + sum(sum(engine.seconds.values()) for engine in plan.engines)
    assert "certify" in render(plan, an_architecture())


def test_engines_that_are_built_side_by_side_take_less_time() -> None:
    def whole(jobs: int) -> float:
        limits = Limits(disk_bytes=100 * GB, host_bytes=64 * GB, jobs=jobs)
        return make_plan(an_architecture(), ACard(), limits, a_histogram()).build_seconds

    assert whole(2) < whole(1)
