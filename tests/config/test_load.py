"""Merging, checking and telling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.backends.ladder import TEST_BACKENDS
from trt_worker.config.load import Loaded, load_config
from trt_worker.config.schema import Config
from trt_worker.errors import ConfigError

Load = Callable[..., Loaded]

DATA = Path(__file__).parents[1] / "data" / "config"

# For every live key: text that differs from the default, and what it becomes.
VALUES: dict[str, tuple[str, object]] = {
    "api_key": ("short", "short"),
    "dreamer_name": ("Rig", "Rig"),
    "worker_name": ("Rig", "Rig"),
    "network": ("grid", "grid"),
    "horde_url": ("https://aihorde.net/api/", "https://aihorde.net/api/"),
    "grid_url": ("ws://127.0.0.1:9/v1/workers/ws", "ws://127.0.0.1:9/v1/workers/ws"),
    "grid_http_url": ("http://[::1]:9", "http://[::1]:9"),
    "grid_connections": ("7", 7),
    "bridge_agent": ("name:1:url", "name:1:url"),
    "wallet_address": ("0x" + "aB" * 20, "0x" + "aB" * 20),
    "worker_identity_key_file": ("/keys/rig.json", Path("/keys/rig.json")),
    "worker_delegations_file": ("/keys/signed.json", Path("/keys/signed.json")),
    "grid_ca_file": ("/keys/origin.pem", Path("/keys/origin.pem")),
    "remove_maintenance_on_init": ("TRUE", True),
    "models_to_load": ("A, B", ("A", "B")),
    "models_to_skip": ('["A, with a comma", "B"]', ("A, with a comma", "B")),
    "custom_models": ('[{"name": "A", "baseline": "flux_1", "filepath": "a"}]', None),
    "max_power": ("512", 512),
    "nsfw": ("false", False),
    "blacklist": ("a,b", ("a", "b")),
    "allow_img2img": ("0", False),
    "allow_painting": ("yes", True),
    "allow_controlnet": ("1", True),
    "allow_sdxl_controlnet": ("true", None),  # needs allow_controlnet
    "allow_lora": ("on", True),
    "allow_post_processing": ("True", True),
    "allow_unsafe_ip": ("no", False),
    "priority_usernames": ("a#1", ("a#1",)),
    "require_upfront_kudos": ("true", True),
    "extra_slow_worker": ("true", True),
    "limit_max_steps": ("true", True),
    "civitai_api_token": ("token-of-mine", "token-of-mine"),
    "cache_home": ("/big/disk", Path("/big/disk")),
    "backends": ("pytorch", ("pytorch",)),
    "gpus": ("0,GPU-1f", ("0", "GPU-1f")),
    "memory_share": ("0.5", 0.5),
    "max_batch": ("20", 20),
    "max_threads": ("2", 2),
    "queue_size": ("0", 0),
    "threads_per_device": ("3", 3),
    "process_timeout": ("12.5", 12.5),
    "drain_seconds": ("0", 0.0),
    "ack_seconds": ("5", 5.0),
    "minutes_allowed_without_jobs": ("0", 0),
    "stats_output_frequency": ("0", 0.0),
    "suppress_speed_warnings": ("true", True),
    "limited_console_messages": ("true", True),
    "exit_on_unhandled_faults": ("true", True),
    "log_dir": ("/var/log/w", Path("/var/log/w")),
    "metrics_port": ("9100", 9100),
}


def plain(value: object) -> object:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def test_every_live_key_has_a_case_here() -> None:
    assert set(VALUES) == set(Config.model_fields)


@pytest.mark.parametrize("key", VALUES)
def test_an_environment_variable_sets_every_live_key(key: str) -> None:
    text, expected = VALUES[key]

    config = load_config(None, environ={f"AIWORKER_{key.upper()}": text}).config

    if expected is not None:
        assert plain(getattr(config, key)) == expected
    if key not in {"allow_sdxl_controlnet"}:
        assert getattr(config, key) != getattr(Config(), key)


@pytest.mark.parametrize("key", [key for key in VALUES if key not in {"allow_sdxl_controlnet", "custom_models"}])
def test_the_environment_wins_over_the_file_and_the_file_over_the_default(load: Load, key: str) -> None:
    text, expected = VALUES[key]
    default = Config().redacted()[key]
    other = {True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else None  # type: ignore[call-overload]

    in_file = load(f"{key}: '{text}'\n", own=False).config
    overridden = load(f"{key}: {other or 'grid_' + 'b' * 32}\n", environ={f"AIWORKER_{key.upper()}": text}, own=False)

    assert plain(getattr(in_file, key)) == expected
    assert plain(getattr(overridden.config, key)) == expected


def test_the_name_option_wins_over_everything(load: Load) -> None:
    environ = {"AIWORKER_DREAMER_WORKER_NAME": "from environment"}

    assert load(environ=environ, name="from -n").config.dreamer_name == "from -n"
    assert load(environ=environ).config.dreamer_name == "from environment"
    assert load().config.dreamer_name == "Rig of mine"


def test_the_worker_name_stands_in_for_a_missing_dreamer_name(load: Load) -> None:
    assert load("worker_name: W\n", own=False).config.dreamer_name == "W"
    assert load("worker_name: W\n").config.dreamer_name == "Rig of mine"


def test_plain_variables_of_old_win_over_the_file_and_lose_to_prefixed_ones(load: Load) -> None:
    text = "horde_url: https://file.example\ncivitai_api_token: from-file\n"
    environ = {"AI_HORDE_URL": "https://plain.example/api/", "CIVIT_API_TOKEN": "from-plain"}

    config = load(text, environ=environ).config
    assert config.horde_url == "https://plain.example/api/"
    assert plain(config.civitai_api_token) == "from-plain"

    environ |= {"AIWORKER_HORDE_URL": "https://prefixed.example", "AIWORKER_CIVIT_API_TOKEN": "from-prefixed"}
    config = load(text, environ=environ).config
    assert config.horde_url == "https://prefixed.example"
    assert plain(config.civitai_api_token) == "from-prefixed"


def test_empty_variables_and_keys_without_a_value_count_as_not_set(load: Load) -> None:
    config = load("max_batch:\nmodels_to_load:\n", environ={"AIWORKER_MAX_POWER": "", "AI_HORDE_URL": " "}).config

    assert (config.max_batch, config.max_power, config.models_to_load) == (4, 32, ("ALL",))


def test_an_api_key_of_digits_keeps_its_zeros(load: Load) -> None:
    assert plain(load("api_key: 0012300\n", own=False).config.api_key) == "0012300"


@pytest.mark.parametrize("key", ["a", "grid_" + "x" * 64, "k" * 22])
def test_an_api_key_may_have_any_length(load: Load, key: str) -> None:
    assert plain(load(f"api_key: {key}\n", own=False).config.api_key) == key


def test_a_file_of_the_operators_own_has_no_notes(load: Load) -> None:
    assert load().notes == ()


def test_the_anonymous_key_and_the_name_of_the_template_are_accepted_and_noted(load: Load) -> None:
    notes = [str(note) for note in load("", own=False).notes]

    assert len(notes) == 2
    assert "anonymous" in notes[0]
    assert "dreamer_name" in notes[1]


def test_a_dead_key_is_accepted_and_the_reason_told_with_its_line(load: Load) -> None:
    [note] = load("high_memory_mode: whatever it was\n").notes

    assert str(note).startswith("bridgeData.yaml, line 3: high_memory_mode has no effect: ")


def test_an_unknown_key_is_told_with_the_closest_known_one(load: Load) -> None:
    [note] = load("Max-Powr: 8\n").notes

    assert "line 3" in str(note)
    assert "max_power" in note.text


def test_an_unknown_variable_is_told_and_foreign_ones_are_not(load: Load) -> None:
    environ = {"AIWORKER_MAX_BATHC": "1", "HF_HOME": "/x", "AIWORKER_NOT_REQUIRED_VERSION": "1"}

    [note] = load(environ=environ).notes

    assert note.place == "environment AIWORKER_MAX_BATHC"
    assert "max_batch" in note.text


def test_of_two_names_for_one_key_the_key_itself_wins_and_the_other_is_told(load: Load) -> None:
    loaded = load("models_folder_parent: /a\ncache_home: /b\n")

    assert loaded.config.cache_home == Path("/b")
    assert [note.key for note in loaded.notes] == ["models_folder_parent"]


def test_every_wrong_value_is_reported_at_once_with_its_place_and_what_is_allowed(load: Load) -> None:
    text = "max_power: 999\nnsfw: maybe\nnetwork: both ways\nblacklist: [ok, [nested]]\nmodels_to_load: {a: 1}\n"

    with pytest.raises(ConfigError) as caught:
        load(text, environ={"AIWORKER_MAX_BATCH": "many"})

    message = str(caught.value)
    assert "6 values cannot be used" in message
    assert "line 3: max_power: '999' is no such number; allowed: a whole number from 1 up to 512" in message
    assert "line 4: nsfw: 'maybe' is neither true nor false" in message
    assert "line 5: network: 'both ways' is not known; allowed: auto, grid, horde, both" in message
    assert "line 6: blacklist, item 2: a list does not fit" in message
    assert "line 7: models_to_load: a mapping does not fit" in message
    assert "environment AIWORKER_MAX_BATCH: max_batch: 'many'" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("process_timeout: 0", "above 0"),
        ("process_timeout: .nan", "no such number"),
        ("max_batch: 2.5", "whole number"),
        ("max_batch: " + "9" * 5000, "whole number"),
        ("horde_url: aihorde.net", "https://host or http://host"),
        ("horde_url: https://[::1", "no address"),
        ("grid_url: ws://grid.example/ws", "in the clear"),
        ("grid_http_url: http://localhost.example", "in the clear"),
        ("horde_url: http://192.168.1.5:7001/api/", "in the clear"),
        ("cache_home: 'C:\\models'", "write /"),
        ('log_dir: "C:\\temp"', "single quotes"),
        ("cache_home: ~nobody-of-that-name/x", "home folder"),
        ("backends: [onnxruntime, cuda]", "item 2: 'cuda' is not known; allowed: tensorrt-rtx"),
        ("wallet_address: 0x12", "40 hexadecimal digits"),
        ("dreamer_name: " + "n" * 101, "1 to 100 characters"),
        ("custom_models: [{name: A, baseline: sd_xl, filepath: a}]", "item 1, baseline: 'sd_xl' is no architecture"),
        ("models_to_load: '[\"A\"'", "no list in brackets"),
        ("network: horde", "set horde_url"),
        ("api_key: a b", "copy it again"),
        ("api_key: []", "is empty"),
    ],
)
def test_a_wrong_value_is_explained(load: Load, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="line 1") as caught:
        load(text, own=False)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "api_key: 'key-of mine'",
        "civitai_api_token: 'key-of mine'",
        "horde_url: https://user:key-of@host",
        "grid_url: wss://host?key-of",
        "wallet_address: grid_key-of",
    ],
)
def test_no_message_quotes_what_may_be_a_secret(load: Load, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, own=False)

    assert "key-of" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_dead_or_unknown_key_never_has_its_value_told(load: Load) -> None:
    assert not [note for note in load("apikey: hunter22\nkai_url: hunter22\n").notes if "hunter22" in str(note)]


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", {"grid"}),
        ("horde_url: https://api.aipowergrid.io/api/", {"grid"}),
        ("horde_url: https://aihorde.net/api/", {"horde"}),
        ("horde_url: https://notaipowergrid.io/api/", {"horde"}),
        ("horde_url: https://aihorde.net/api/\nnetwork: grid", {"grid"}),
        ("horde_url: https://aihorde.net/api/\nnetwork: both", {"grid", "horde"}),
    ],
)
def test_the_network_follows_from_the_address_unless_it_is_named(load: Load, text: str, networks: set[str]) -> None:
    assert load(text).config.networks == networks


def test_a_worker_connects_twice_per_row_unless_told_otherwise(load: Load) -> None:
    assert load("max_batch: 6").config.connections(devices=1) == 12
    assert load("grid_connections: 3").config.connections(devices=2) == 3


def test_max_power_counts_in_units_of_32768_pixels(load: Load) -> None:
    assert load("max_power: 32").config.max_pixels == 1024 * 1024


def test_an_extra_slow_worker_takes_nothing_ahead_and_says_so(load: Load) -> None:
    loaded = load("extra_slow_worker: true\nqueue_size: 3\nmax_threads: 2")

    assert (loaded.config.queue_size, loaded.config.max_threads) == (0, 1)
    assert {note.key for note in loaded.notes} == {"queue_size", "max_threads"}


def test_a_long_queue_beside_many_threads_is_not_cut_down(load: Load) -> None:
    assert load("queue_size: 4\nmax_threads: 8").config.queue_size == 4


def test_controlnet_without_img2img_counts_as_off_and_says_so(load: Load) -> None:
    loaded = load("allow_img2img: false\nallow_controlnet: true\nallow_sdxl_controlnet: true")

    assert not loaded.config.allow_controlnet
    assert not loaded.config.allow_sdxl_controlnet
    assert {note.key for note in loaded.notes} == {"allow_controlnet", "allow_sdxl_controlnet"}


def test_priority_users_without_a_number_are_left_out_and_told(load: Load) -> None:
    loaded = load("priority_usernames: [alice, bob#2]")

    assert loaded.config.priority_usernames == ("bob#2",)
    assert "'alice'" in loaded.notes[0].text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("['TOP 3', 'X']", ("TOP 3", "X")),
        ("['TOP 3', \"Anna's (v2.1)\", 'A, B']", ("TOP 3", "Anna's (v2.1)", "A, B")),
        ("[TOP 3, X]", ("TOP 3", "X")),
        ('["TOP 3", "\\ud83d\\ude00"]', ("TOP 3", "\N{GRINNING FACE}")),
        ("A;B, C", ("A", "B", "C")),
        ("Model [v2]", ("Model [v2]",)),
        ("[]", ()),
    ],
)
@pytest.mark.parametrize("variable", ["AIWORKER_MODELS_TO_LOAD", "AIWORKER_REGEN_IMAGE_MODELS_TO_LOAD"])
def test_a_list_in_a_variable_is_read_as_the_regen_worker_reads_and_writes_it(
    variable: str, text: str, names: tuple[str, ...]
) -> None:
    assert load_config(None, environ={variable: text}).config.models_to_load == names


def test_custom_models_are_read_in_pythons_own_form_too() -> None:
    text = "[{'name': 'A', 'baseline': 'flux_1', 'filepath': '/a b.safetensors'}]"

    [model] = load_config(None, environ={"AIWORKER_CUSTOM_MODELS": text}).config.custom_models

    assert (model.name, model.filepath) == ("A", Path("/a b.safetensors"))


def test_checkpoints_of_ones_own_lie_where_the_worker_does_unless_they_are_named_in_full() -> None:
    text = "[{'name': 'A', 'baseline': 'sdxl', 'filepath': 'a.safetensors'}]"

    [model] = load_config(None, environ={"AIWORKER_CUSTOM_MODELS": text}, home=Path("/home")).config.custom_models

    assert model.filepath == Path("/home/a.safetensors")


def test_the_environment_that_the_regen_workers_converter_writes_is_read_whole() -> None:
    lines = (DATA / "01-regen-docker.env").read_text().splitlines()

    loaded = load_config(None, environ=dict(line.split("=", 1) for line in lines))

    assert loaded.config.models_to_load == ("TOP 3", "Example Model (SDXL)")
    assert loaded.config.models_to_skip == ("pix2pix", "SDXL_beta::stability.ai#6901")
    assert {note.key for note in loaded.notes} == {"safety_on_gpu", "allow_lora"}


def test_a_file_of_the_first_workers_is_read_and_every_key_that_has_gone_gets_its_reason() -> None:
    loaded = load_config(DATA / "03-nataili-era.yaml", environ={})

    said = {note.key: note.text for note in loaded.notes}
    gone = {
        "nataili_cache_home",
        "low_vram_mode",
        "disable_voodoo",
        "enable_model_cache",
        "ray_temp_dir",
        "enable_terminal_ui",
    }
    assert gone <= said.keys()
    assert not [key for key, text in said.items() if "unknown" in text]
    assert loaded.config.horde_url == "https://aihorde.net/api/"
    assert "https://aihorde.net/api/" in said["horde_url"]


@pytest.mark.parametrize(
    "name",
    ["An Awesome Dreamer", "An Awesome Grid Worker", "Please set the name of your Worker", "XXX", "<your name>"],
)
def test_a_name_that_a_template_left_is_told(load: Load, name: str) -> None:
    notes = load(f'api_key: a-key-of-mine\ndreamer_name: "{name}"', own=False).notes

    assert [note.key for note in notes] == ["dreamer_name"]
    assert repr(name) in notes[0].text


@pytest.mark.parametrize("name", ["Awesome Rig", "Max", "xx", "Please", "Example of a rig", "Your Majesty"])
def test_a_name_of_the_operators_own_is_not_taken_for_a_templates(load: Load, name: str) -> None:
    assert load(f'api_key: a-key-of-mine\ndreamer_name: "{name}"', own=False).notes == ()


def test_the_names_in_an_old_template_are_told_in_one_note() -> None:
    loaded = load_config(DATA / "04-default-names.yaml", environ={})

    assert [note.key for note in loaded.notes if "template" in note.text] == ["dreamer_name"]


def test_a_key_that_a_template_left_is_told_and_not_quoted(load: Load) -> None:
    [note] = load("api_key: your_api_key_here\ndreamer_name: Rig", own=False).notes

    assert (note.key, "your_api_key" in note.text) == ("api_key", False)


def test_relative_paths_start_in_the_workers_home_and_others_stay(tmp_path: Path) -> None:
    environ = {"AIWORKER_GRID_CA_FILE": "certs/ca.pem", "AIWORKER_CACHE_HOME": "/models"}

    config = load_config(None, environ=environ, home=tmp_path).config

    assert (config.log_dir, config.grid_ca_file) == (tmp_path / "logs", tmp_path / "certs" / "ca.pem")
    assert config.cache_home == Path("/models")
    assert config.worker_identity_key_file is None


def test_a_redacted_configuration_is_json_and_holds_no_secret(load: Load) -> None:
    config = load("civitai_api_token: hunter22\n").config

    text = json.dumps(config.redacted())

    assert config.secrets == ("grid_" + "a" * 32, "hunter22")
    assert not [secret for secret in config.secrets if secret in text + repr(config) + str(config)]
    assert set(config.redacted()) == set(Config.model_fields)


def test_the_anonymous_key_is_no_secret() -> None:
    assert Config().secrets == ()
    assert Config().redacted()["api_key"] == "anonymous"


LOCAL = "horde_url: ''\ngrid_url: ws://127.0.0.1:1/ws\ngrid_http_url: http://[::1]:1\n"


@pytest.mark.parametrize("backend", TEST_BACKENDS)
def test_a_backend_that_only_tests_the_worker_is_refused_for_any_network_off_this_machine(
    load: Load, backend: str
) -> None:
    assert load(f"{LOCAL}backends: [{backend}]\n").config.backends == (backend,)

    for abroad in ("grid_http_url: https://grid.example", "network: both\nhorde_url: https://horde.example/api/"):
        kept = "".join(f"{line}\n" for line in LOCAL.splitlines() if line.split(":")[0] not in abroad)
        with pytest.raises(ConfigError, match=rf"backends names {backend}, which only tests the worker"):
            load(f"{kept}{abroad}\nbackends: [onnxruntime, {backend}]\n")


def test_an_unquoted_null_means_the_default_backends(load: Load) -> None:
    assert load("backends: null\n").config.backends == ()
