"""A checkpoint becomes a model that is bound to its own bytes, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trt_engines.architectures.registry import architecture
from trt_engines.bound_weights import digest, float32_values, read_bindings
from trt_engines.description import FILE, read_description
from trt_engines.errors import ModelUnusable
from trt_engines.model import find_models, read_model
from trt_engines.modules.registry import module_of
from trt_engines.sessions.onnx_graph import open_graph
from trt_engines.store.errors import StoreFull
from trt_engines.store.locks import hold
from trt_engines.store.store import Store
from trt_export.adding import add as adding
from trt_export.adding.add import Added, add_model
from trt_export.adding.overview import READY, changed, overviews, problem_with
from trt_export.adding.removal import CannotRemove, removal_of, remove
from trt_export.adding.staging import lock_of
from trt_export.adding.wanted import CannotAdd, UnservedArchitecture, Wanted
from trt_export.building.located import locate
from trt_export.checkpoints.random_checkpoint import random_tensors, write_random
from trt_export.child import Stopped, unheard

Add = Callable[..., Added]


def test_a_checkpoint_becomes_a_model_whose_weights_stay_where_they_are(add: Add, checkpoint: Path) -> None:
    before = {file: file.read_bytes() for file in checkpoint.rglob("*.safetensors")}

    added = add(checkpoint, name="Mine")

    model = added.model
    assert (model.name, model.architecture, added.types, added.notes) == ("Mine", "stable_diffusion_1", ("F16",), ())
    assert {file.resolve() for file in model.weight_files} == set(before)
    assert all(Path(os.readlink(file)).is_absolute() for file in model.weight_files)
    assert {file: file.read_bytes() for file in checkpoint.rglob("*.safetensors")} == before
    assert model.digests == {file: hashlib.sha256(before[file.resolve()]).hexdigest() for file in model.weight_files}
    assert added.written_bytes == sum(one.stat().st_size for one in model.folder.iterdir() if not one.is_symlink())


def test_every_weight_of_a_model_is_found_where_its_bindings_say(add: Add, checkpoint: Path) -> None:
    model = add(checkpoint).model

    stored = load_file(checkpoint / "unet" / "model.safetensors")
    denoiser = model.networks["denoiser"]
    assert denoiser.bindings is not None
    bound = read_bindings(denoiser.bindings)
    one = next(tensor for tensor in bound.tensors if tensor.name == "model.conv_in.weight")
    expected = stored["model.diffusion_model.input_blocks.0.0.weight"].float().numpy()
    assert np.array_equal(float32_values(one), expected)
    assert bound.config is not None  # it is smaller than the architecture's own
    assert denoiser.digest == digest(sorted(bound.tensors, key=lambda tensor: tensor.name))
    assert problem_with(model.folder) == ""


def test_a_graph_that_is_not_there_is_exported_and_computes_what_pytorch_does(
    checkpoint: Path, graphs: Path, tmp_path: Path, models: Path
) -> None:
    own = Path(shutil.copytree(graphs, tmp_path / "graphs"))
    next(own.glob("*text_encoder*.onnx")).unlink()
    told: list[str] = []

    added = add_model(
        Wanted(path=checkpoint, family="stable_diffusion_1"),
        models=models,
        graphs=own,
        tell=lambda step, _share: told.append(step),
        stop=threading.Event(),
    )

    assert added.exported == ("text_encoder",)
    assert told[:3] == ["trace text_encoder", "export text_encoder", "optimise text_encoder"]
    encoder = added.model.networks["text_encoder"]
    assert encoder.graph is not None
    assert encoder.bindings is not None
    ids = np.arange(77, dtype=np.int64)[None] * 7
    session = open_graph(encoder.graph, threads=1)
    weights = {one.name: one for one in read_bindings(encoder.bindings).tensors}
    small = module_of("stable_diffusion_1", "text_encoder").small
    module = small.make(small.config).eval()
    module.load_state_dict({name: torch.from_numpy(float32_values(one)) for name, one in weights.items()}, strict=False)
    with torch.inference_mode():
        expected = module(torch.from_numpy(ids)).numpy()
    assert np.abs(session.run(None, {"input_ids": ids})[0] - expected).max() < 1e-4


@pytest.mark.usefixtures("of_small_size")
def test_a_pickle_is_turned_into_safetensors_in_the_models_folder(add: Add, tmp_path: Path, models: Path) -> None:
    whole, pickle = tmp_path / "whole.safetensors", tmp_path / "v1-5.ckpt"
    write_random(whole, random_tensors(architecture("stable_diffusion_1"), small=True), seed=0, dtype="float16")
    torch.save({"state_dict": load_file(whole), "global_step": 7}, pickle)

    model = add(pickle).model

    assert (model.name, set(model.checkpoint_files)) == ("v1-5", {"v1-5.ckpt"})
    assert [(file.name, file.is_symlink()) for file in model.weight_files] == [("checkpoint.safetensors", False)]
    assert problem_with(model.folder) == ""
    assert locate("v1-5", models).path == model.folder / "checkpoint.safetensors"  # what engines are built of
    assert {one.digest for one in model.networks.values()} == {one.digest for one in add(whole).model.networks.values()}
    assert removal_of(models, "v1-5").kept == ()


def test_the_same_checkpoint_is_renewed_and_another_one_of_its_name_is_refused(add: Add, checkpoint: Path) -> None:
    first = add(checkpoint)
    written = first.model.folder / FILE
    before = written.stat().st_ino
    other = shutil.copytree(checkpoint, checkpoint.parent / "other" / "tiny")

    again = add(checkpoint)

    assert again.model.same_as(first.model)
    assert written.stat().st_ino != before
    with pytest.raises(CannotAdd, match=rf"a model tiny already, of {checkpoint}: give this one another name with"):
        add(other)
    assert add(other, name="tiny 2").model.name == "tiny 2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shapes-tiny", "the model that ships with this worker"),
        ("a/b", "also that of a folder"),
        (".hidden", "also that of a folder"),
        ("", "has 0 characters"),
        ("ア" * 100, "longer than that of a folder"),
    ],
)
def test_a_name_that_no_folder_can_have_is_refused(
    add: Add, checkpoint: Path, models: Path, name: str, said: str
) -> None:
    with pytest.raises(CannotAdd, match=said):
        add(checkpoint, name=name)
    assert not list(models.glob("[!.]*"))


def test_a_folder_that_is_no_model_keeps_its_files(add: Add, checkpoint: Path, models: Path) -> None:
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "notes.txt").write_text("mine")

    with pytest.raises(CannotAdd, match="already that is no model"):
        add(checkpoint)

    assert [file.name for file in (models / "tiny").iterdir()] == ["notes.txt"]


def test_a_missing_network_is_named_with_the_option_that_says_where_it_is(add: Add, checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "text_encoder")
    shutil.move(checkpoint / "vae", checkpoint.parent / "vae")

    with pytest.raises(
        CannotAdd, match=r"is Stable Diffusion 1.5 without its text_encoder and vae_decoder; .*"
    ) as told:
        add(checkpoint)

    assert "--network text_encoder=FILE --network vae=FILE" in str(told.value)
    with pytest.raises(CannotAdd, match="without its text_encoder; say"):
        add(checkpoint, networks={"vae": checkpoint.parent / "vae"})


def test_a_network_that_lies_elsewhere_is_linked_from_there(add: Add, checkpoint: Path) -> None:
    shutil.move(checkpoint / "vae", checkpoint.parent / "elsewhere")

    model = add(checkpoint, networks={"vae": checkpoint.parent / "elsewhere"}).model

    (linked,) = model.networks["vae_decoder"].weights
    assert linked.resolve() == checkpoint.parent / "elsewhere" / "model.safetensors"


def test_a_model_without_an_encoder_is_served_and_says_what_it_cannot_do(add: Add, checkpoint: Path) -> None:
    file = checkpoint / "vae" / "model.safetensors"
    save_file({name: one for name, one in load_file(file).items() if ".encoder." not in name}, file)

    added = add(checkpoint)

    assert "vae_encoder" not in added.model.networks
    assert added.notes[0].startswith("It is served without its vae_encoder")


def test_an_architecture_that_is_not_served_is_named_and_nothing_is_written(
    models: Path, graphs: Path, tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    file = tmp_path / "flux1-dev.safetensors"
    file_with_holes(
        file,
        {
            "img_in.weight": ("BF16", (3072, 64)),
            "double_blocks.18.img_attn.qkv.weight": ("BF16", (9216, 3072)),
            "guidance_in.in_layer.weight": ("BF16", (3072, 256)),
        },
    )

    with pytest.raises(UnservedArchitecture, match=r"is Flux.1 dev: .*nothing was written"):
        add_model(Wanted(path=file), models=models, graphs=graphs, tell=unheard, stop=threading.Event())

    assert not list(models.glob("[!.]*"))


def test_a_full_disk_is_told_and_leaves_no_model(
    add: Add, checkpoint: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = adding.write_network

    def fill(*given: object) -> object:
        if given[1] == "denoiser":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(adding, "write_network", fill)

    with pytest.raises(StoreFull, match=r"no room for the model tiny in .*models"):
        add(checkpoint)

    assert [file.name for file in models.iterdir()] == [".tiny.lock"]


def test_an_add_that_is_stopped_leaves_no_model(checkpoint: Path, models: Path, graphs: Path) -> None:
    stop = threading.Event()

    def tell(step: str, _share: float) -> None:
        if step == "bind denoiser":
            stop.set()

    with pytest.raises(Stopped):
        add_model(
            Wanted(path=checkpoint, family="stable_diffusion_1"), models=models, graphs=graphs, tell=tell, stop=stop
        )

    assert [file.name for file in models.iterdir()] == [".tiny.lock"]


KILLED = """
import sys, threading
from pathlib import Path
from trt_export.adding import add
from trt_export.adding.wanted import CannotAdd, UnservedArchitecture, Wanted

checkpoint, models, graphs, when = sys.argv[1:]
def wait():
    print("there", flush=True)
    sys.stdin.read()
def tell(step, share):
    if step == when:
        wait()
publish = add.publish
def published(folder, place):
    if when == "publish":
        wait()
    publish(folder, place)
add.publish = published
wanted = Wanted(path=Path(checkpoint), family="stable_diffusion_1")
add.add_model(wanted, models=Path(models), graphs=Path(graphs), tell=tell, stop=threading.Event())
"""


@pytest.mark.parametrize("when", ["publish"])
def test_an_add_that_is_killed_leaves_nothing_that_is_served_and_the_next_one_works(
    add: Add, checkpoint: Path, models: Path, graphs: Path, when: str
) -> None:
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(models), str(graphs), when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.kill()

    left = [file.name for file in models.iterdir()]
    assert sorted(left) == [".tiny.lock", ".tiny.new"]
    assert (models / ".tiny.new" / FILE).is_file()  # whole, but not in its place
    assert set(find_models([models])) == {"shapes-tiny"}

    other = shutil.copytree(checkpoint, checkpoint.parent / "another")
    assert add(other).model.name == "another"  # of another name, which clears what is left
    assert not (models / ".tiny.new").exists()
    assert problem_with(add(checkpoint).model.folder) == ""


def test_what_was_about_to_be_replaced_comes_back_when_its_successor_never_came(
    add: Add, checkpoint: Path, models: Path
) -> None:
    model = add(checkpoint).model
    model.folder.rename(models / ".tiny.old")

    add(checkpoint, name="another")

    assert read_model(models / "tiny").same_as(model)


def test_two_adds_of_one_name_do_not_write_at_once(checkpoint: Path, models: Path, graphs: Path) -> None:
    models.mkdir()
    stop = threading.Event()
    stop.set()

    with hold(lock_of(models, "tiny")), pytest.raises(Exception, match="stopped while another process"):
        add_model(
            Wanted(path=checkpoint, family="stable_diffusion_1"), models=models, graphs=graphs, tell=unheard, stop=stop
        )


def test_a_checkpoint_that_has_changed_or_is_gone_is_named(add: Add, checkpoint: Path) -> None:
    folder = add(checkpoint).model.folder
    file = checkpoint / "unet" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    assert changed(folder) == ""

    file.write_bytes(data)

    assert "has changed: add it again" in changed(folder)
    assert "has changed" in problem_with(folder)
    add(checkpoint)
    assert problem_with(folder) == ""
    shutil.rmtree(checkpoint / "vae")
    with pytest.raises(ModelUnusable, match=r"weights-\d.safetensors is a link to .*vae.*not there any more"):
        read_model(folder)


def test_a_byte_that_flipped_without_a_trace_is_found_by_the_check(add: Add, checkpoint: Path) -> None:
    folder = add(checkpoint).model.folder
    file = checkpoint / "unet" / "model.safetensors"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    if len(data) < 2**20:  # all of it is looked at
        assert "has changed" in problem_with(folder)
    else:
        assert "its bytes are not those of the model" in problem_with(folder)


def test_a_graph_that_is_cut_is_found_by_the_check(add: Add, checkpoint: Path) -> None:
    folder = add(checkpoint).model.folder
    graph = folder / "denoiser.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])

    assert f"the graph of the denoiser, {graph}: cannot be opened" in problem_with(folder)


def test_models_are_listed_with_what_can_run_them(add: Add, checkpoint: Path, models: Path, tmp_path: Path) -> None:
    add(checkpoint, name="Mine")
    (models / "broken").mkdir()
    (models / "broken" / FILE).write_text("{")

    mine, broken, shipped = overviews(models, Store(tmp_path / "store"))

    assert (mine.name, mine.title, mine.state) == ("Mine", "Stable Diffusion 1.5", READY)
    assert (mine.lies, mine.backends) == (str(checkpoint), ("onnxruntime", "pytorch"))
    assert mine.bytes == sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    assert broken.state.startswith("unusable: ")
    assert (shipped.name, shipped.state) == ("shapes-tiny", READY)


def test_removing_a_model_takes_what_was_written_and_leaves_the_checkpoint(
    add: Add, checkpoint: Path, models: Path
) -> None:
    folder = add(checkpoint).model.folder
    there = sorted(folder.iterdir())
    before = {file: file.read_bytes() for file in checkpoint.rglob("*") if file.is_file()}

    foretold = removal_of(models, "tiny")

    assert (sorted(foretold.files), foretold.kept, sorted(folder.iterdir())) == (there, (), there)
    assert remove(models, "tiny") == foretold
    assert not folder.exists()
    assert {file: file.read_bytes() for file in checkpoint.rglob("*") if file.is_file()} == before


def test_what_somebody_put_into_a_models_folder_stays_and_is_named(add: Add, checkpoint: Path, models: Path) -> None:
    folder = add(checkpoint).model.folder
    note, link = folder / "notes.txt", folder / "weights-0.safetensors"
    note.write_text("mine")
    target = link.resolve()
    link.unlink()
    shutil.copy(target, link)  # weights in the place of a link are somebody's

    removal = remove(models, "tiny")

    assert removal.kept == (note, link)
    assert sorted(folder.iterdir()) == [note, link]
    assert set(find_models([models])) == {"shapes-tiny"}


def test_a_model_that_was_put_there_is_not_removed(models: Path, add: Add, checkpoint: Path) -> None:
    folder = add(checkpoint).model.folder
    described = (folder / FILE).read_text().replace('"source": {', '"source": null, "x": {', 1)
    assert read_description(folder / FILE).source is not None
    (models / "linked").symlink_to(folder)

    for name, said in (("linked", "is a link"), ("absent", "there are linked, tiny"), ("../tiny", "there is no model")):
        with pytest.raises(CannotRemove, match=said):
            remove(models, name)
    (folder / FILE).write_text(described)
    with pytest.raises(CannotRemove, match="by hand"):
        remove(models, "tiny")
    assert folder.is_dir()
