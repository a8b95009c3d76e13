"""Files of existing workers load as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_worker.config.keys import ALIASES, DEAD, RELOADED, UNSERVED
from trt_worker.config.load import load_config
from trt_worker.config.schema import Config

# What an operator of an older worker may have in the file: key, or key and further names, with a value it took.
OLD_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("horde_url",), "https://api.aipowergrid.io/api/"),
    (("api_key",), '"0000000000"'),
    (("worker_name", "default_worker_name"), "An Awesome AI Horde Worker"),
    (("dreamer_name", "dreamer_worker_name"), "An Awesome Dreamer"),
    (("cache_home", "models_folder_parent"), '"./models/"'),
    (("temp_dir",), '"./tmp/"'),
    (("allow_unsafe_ip",), "true"),
    (("priority_usernames",), "[alias#1234]"),
    (("stats_output_frequency",), "20"),
    (("disable_terminal_ui",), "true"),
    (("always_download",), "true"),
    (("suppress_speed_warnings",), "false"),
    (("extra_stable_diffusion_models_folders",), "[]"),
    (("allow_img2img",), "true"),
    (("allow_painting", "allow_inpainting"), "true"),
    (("allow_controlnet",), "true"),
    (("allow_sdxl_controlnet",), "true"),
    (("allow_lora",), "true"),
    (("max_lora_cache_size",), "10"),
    (("allow_post_processing",), "true"),
    (("extra_slow_worker",), "false"),
    (("limit_max_steps",), "false"),
    (("blacklist",), "[]"),
    (("nsfw",), "true"),
    (("censor_nsfw",), "false"),
    (("censorlist",), "[]"),
    (("disable_disk_cache",), "false"),
    (("dynamic_models",), "false"),
    (("number_of_dynamic_models",), "0"),
    (("max_models_to_download",), "10"),
    (("ram_to_leave_free",), '"80%"'),
    (("vram_to_leave_free",), '"80%"'),
    (("max_power",), "8"),
    (("models_to_load",), "\n  - TOP 2\n  - ALL SDXL MODELS\n  - Juggernaut XL"),
    (("models_to_skip",), "\n  - stable_diffusion_inpainting"),
    (("queue_size",), "4"),
    (("max_threads",), "16"),
    (("max_batch",), "20"),
    (("require_upfront_kudos",), "false"),
    (("alchemist_name",), "An Awesome Alchemist"),
    (("forms",), "[caption, nsfw, interrogation, post-process]"),
    (("scribe_name",), "An Awesome Scribe"),
    (("kai_url",), '"http://localhost:5000"'),
    (("max_context_length",), "1024"),
    (("max_length",), "80"),
    (("branded_model",), "true"),
    (("safety_on_gpu",), "false"),
    (("cycle_process_on_model_change",), "false"),
    (("civitai_api_token", "CIVIT_API_TOKEN"), "abcdefabcdef"),
    (("unload_models_from_vram_often",), "true"),
    (("process_timeout",), "900"),
    (("post_process_timeout",), "60"),
    (("download_timeout",), "121"),
    (("preload_timeout",), "80"),
    (("inference_step_timeout",), "15"),
    (("minutes_allowed_without_jobs",), "3599"),
    (("model_stickiness", "horde_model_stickiness"), "0.5"),
    (("high_memory_mode",), "false"),
    (("very_high_memory_mode",), "false"),
    (("high_performance_mode",), "false"),
    (("moderate_performance_mode",), "false"),
    (("very_fast_disk_mode",), "false"),
    (("post_process_job_overlap",), "false"),
    (("exit_on_unhandled_faults",), "false"),
    (("remove_maintenance_on_init",), "false"),
    (("load_large_models",), "false"),
    (("purge_loras_on_download",), "false"),
    (("custom_models",), "\n  - name: Mine\n    baseline: stable_diffusion_xl\n    filepath: /models/mine.safetensors"),
    (("capture_kudos_training_data",), "false"),
    (("kudos_training_data_file",), "null"),
    (("limited_console_messages",), "false"),
    # Later versions.
    (("gpu_device_indices",), "[0, 1]"),
    (("gpu_overrides",), "{0: {max_threads: 2}}"),
    (("gpu_pop_balance_threshold",), "2"),
    (("model_pool",), "{pinned: [A], seats: 2}"),
    (("only_models_on_disk",), "true"),
    (("extra_model_directories",), "[]"),
    (("download_rate_limit_kbps",), "0"),
    (("download_max_parallel_downloads",), "2"),
    (("downloads_paused",), "false"),
    (("min_lora_disk_free_gb",), "5"),
    (("vram_reserve_mb",), "512"),
    (("ram_reserve_mb",), "512"),
    (("ram_pressure_pause_percent",), "90"),
    (("ram_per_process_max_mb",), "9000"),
    (("component_cache_budget_mb",), "100"),
    (("max_inference_attempts",), "2"),
    (("inference_first_step_timeout",), "90"),
    (("self_maintenance_minutes",), "5"),
    (("auto_clear_server_maintenance",), "true"),
    (("unservable_model_threshold",), "3"),
    (("dedicated_post_processing",), "false"),
    (("gpu_sampling_lease_enabled",), "true"),
    (("enable_pipeline_disaggregation",), "true"),
    (("dry_run_skip_api",), "false"),
    (("dashboard_port",), "8080"),
)


def a_file(folder: Path, pick: int) -> Path:
    """Every key once, under its name number `pick` or its last one."""
    path = folder / "bridgeData.yaml"
    path.write_text("".join(f"{names[min(pick, len(names) - 1)]}: {value}\n" for names, value in OLD_KEYS))
    return path


@pytest.mark.parametrize("pick", [0, 1])
def test_a_file_with_every_key_of_older_workers_loads_and_no_key_is_unknown(tmp_path: Path, pick: int) -> None:
    loaded = load_config(a_file(tmp_path, pick), environ={})

    assert not [str(note) for note in loaded.notes if "unknown" in note.text]
    assert (loaded.config.max_power, loaded.config.max_batch, loaded.config.queue_size) == (8, 20, 4)
    assert loaded.config.models_to_load == ("TOP 2", "ALL SDXL MODELS", "Juggernaut XL")
    assert loaded.config.gpus == ("0", "1")
    assert loaded.config.custom_models[0].filepath == Path("/models/mine.safetensors")
    assert loaded.config.networks == {"grid"}


def test_both_names_of_a_key_give_the_same_configuration(tmp_path: Path) -> None:
    assert load_config(a_file(tmp_path, 0), environ={}).config == load_config(a_file(tmp_path, 1), environ={}).config


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for names, value in OLD_KEYS for name in names if not value.startswith(("\n", "{", "["))],
)
def test_every_old_key_is_also_an_environment_variable(name: str, value: str) -> None:
    environ = {f"AIWORKER_{name.upper()}": value.strip('"')}

    assert not [str(note) for note in load_config(None, environ=environ).notes if "unknown" in note.text]


def test_the_tables_speak_of_keys_that_exist() -> None:
    live = set(Config.model_fields)

    assert {*ALIASES, *RELOADED, *UNSERVED} <= live
    assert not live & set(DEAD)
    assert not live & {alias for aliases in ALIASES.values() for alias in aliases}


def test_what_is_allowed_in_vain_is_said(tmp_path: Path) -> None:
    told = {note.key for note in load_config(a_file(tmp_path, 0), environ={}).notes}

    assert set(UNSERVED) <= told
