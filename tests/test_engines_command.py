"""`trt-worker engines`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from onnx import TensorProto, helper

from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import GRAPH, Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored


def an_engine(
    root: Path,
    *,
    precision: str = "float16",
    version: str = "0.1",
    passed: bool = True,
    model: str = "Deliberate",
    architecture: str = "stable_diffusion_1",
) -> Stored:
    identity = Identity(
        architecture=architecture,
        component="denoiser",
        graph="a" * 64,
        weights="b" * 64,
        precision=precision,
        profiles=(),
        flags={},
        library="some-library",
        library_version=version,
        compute_capabilities=(86,),
    )
    with Store(root).building(identity) as staging:
        staging.write("engine.plan", b"plan" * 1000)
        staging.phase_done("build", ("engine.plan",), seconds=12.0, peak_bytes=10**9)
        certificate = Certificate(verdict="passed" if passed else "failed", figures={"psnr": 48.0})
        return staging.publish(models=(model,), certificate=certificate, files=("engine.plan",))


def engines(*arguments: str | Path, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trt_worker", "engines", *map(str, arguments)],
        env=dict(os.environ) | {"TRT_WORKER_ENGINES": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_engines_are_listed_with_what_they_are_for(root: Path, tmp_path: Path) -> None:
    good, bad = an_engine(root), an_engine(root, precision="bfloat16", passed=False)
    damaged = an_engine(root, precision="float32")
    damaged.path("engine.plan").unlink()

    answer = engines("list", "--json", tmp_path / "list.json", root=root)

    assert answer.returncode == 0, answer.stderr
    rows = {line.split()[0]: line for line in answer.stdout.splitlines()}
    assert "ready" in rows[good.digest[:12]]
    assert "Deliberate" in rows[good.digest[:12]]
    assert "SM86" in rows[good.digest[:12]]
    assert "failed" in rows[bad.digest[:12]]
    assert "damaged" in rows[damaged.digest[:12]]
    assert "engine.plan is missing" in answer.stderr
    figures = orjson.loads((tmp_path / "list.json").read_bytes())["figures"]
    assert {one["digest"]: one["state"] for one in figures["engines"]} == {
        good.digest: "ready",
        bad.digest: "failed",
        damaged.digest: "damaged",
    }


def test_nothing_that_a_manifest_says_steers_the_terminal_or_makes_a_row(root: Path) -> None:
    forged = an_engine(root, model="A\x1b[2J\nready" + "x" * 5000, architecture="b\x1b[31m\r", version="1\x9b")

    listed, inspected = engines("list", root=root), engines("inspect", forged.digest[:8], root=root)

    assert len(listed.stdout.splitlines()) == 3
    for text in (listed.stdout, inspected.stdout):
        assert "A\\x1b[2J\\nready" in text
        assert not {"\x1b", "\x9b", "\r"} & set(text)
        assert max(map(len, text.splitlines())) <= 600


def test_an_empty_store_is_no_error(root: Path) -> None:
    answer = engines("list", root=root)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("0 engines")


def test_verifying_names_the_damaged_engine_and_fails(root: Path) -> None:
    good, bad = an_engine(root), an_engine(root, precision="bfloat16")
    assert engines("verify", root=root).returncode == 0
    bad.path("engine.plan").write_bytes(b"flan" * 1000)

    answer = engines("verify", root=root)

    assert answer.returncode == 1
    assert f"sound    {good.digest[:12]}" in answer.stdout
    assert f"unusable {bad.digest[:12]}" in answer.stderr
    assert engines("verify", good.digest[:8], root=root).returncode == 0


def test_pruning_says_what_goes_and_a_dry_run_removes_nothing(root: Path) -> None:
    failed, good = an_engine(root, passed=False), an_engine(root, precision="bfloat16")

    shown = engines("prune", "--dry-run", root=root)
    assert shown.stdout.startswith(f"engine {failed.digest[:12]}")
    assert "failed its certificate" in shown.stdout
    assert failed.folder.exists()

    assert engines("prune", root=root).returncode == 0
    assert [one.digest for one in Store(root).entries()] == [good.digest]
    assert engines("prune", "--budget-gb", "0", root=root).returncode == 0
    assert Store(root).entries() == ()


def test_an_engine_goes_from_rig_to_rig(root: Path, tmp_path: Path) -> None:
    sent = an_engine(root)
    archive = tmp_path / "engine.tar"
    assert engines("export", sent.digest[:8], archive, root=root).returncode == 0

    answer = engines("import", archive, root=tmp_path / "other rig")

    assert answer.returncode == 0, answer.stderr
    assert "Deliberate denoiser float16, for SM86" in answer.stdout
    assert Store(tmp_path / "other rig").verify(sent.digest).manifest == sent.manifest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "abcd"), "no engine starts with 'abcd'"),
        (("verify", "abcd"), "no engine starts with 'abcd'"),
        (("import", "nowhere.tar"), "No such file"),
        (("import", __file__), "is no archive of an engine"),
    ],
)
def test_an_error_is_one_line(root: Path, arguments: tuple[str, ...], message: str) -> None:
    answer = engines(*arguments, root=root)

    assert answer.returncode == 1
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_the_commands_are_named_before_anything_is_loaded() -> None:
    program = (
        "import sys; import trt_worker.cli; print(sorted(n for n in sys.modules if n.split('.')[0] in "
        "{'trt_export', 'msgspec', 'numpy', 'torch', 'anyio'}))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_an_engine_is_inspected_with_the_graph_it_was_compiled_from(root: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["sample"], ["noise_pred"], name="the only one")],
        "small",
        [helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("noise_pred", TensorProto.FLOAT, ["rows", 4])],
    )
    identity = Identity(
        architecture="stable_diffusion_1",
        component="denoiser",
        graph="a" * 64,
        weights="b" * 64,
        precision="float16",
        profiles=((InputRange(name="sample", min=(1, 4), opt=(2, 4), max=(8, 4)),),),
        flags={"refittable": False},
        library="some-library",
        library_version="0.1",
        compute_capabilities=(86, 89),
    )
    with Store(root).building(identity) as staging:
        staging.write(GRAPH, helper.make_model(graph).SerializeToString())
        staging.phase_done("build", (GRAPH,), seconds=12.0, peak_bytes=10**9)
        certificate = Certificate(verdict="passed", figures={})
        engine = staging.publish(models=("Deliberate",), certificate=certificate, files=(GRAPH,))

    plain, whole = (
        engines("inspect", engine.digest[:8], root=root),
        engines("inspect", engine.digest, "--layers", root=root),
    )

    assert plain.returncode == 0, plain.stderr
    for said in ("SM86, SM89", "refittable=False", "sample: 1x4 .. 2x4 .. 8x4", "build: 12.0 s, 1.00 GB", "noise_pred"):
        assert said in plain.stdout
    assert "the only one" not in plain.stdout
    assert "the only one" in whole.stdout
