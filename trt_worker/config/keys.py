"""Every key a `bridgeData.yaml` may hold, as data: what it is also called, whether it is live, and why it is not.

The vocabulary is that of the workers operators come from (the AI Horde worker "reGen" and the AI Power Grid image
worker), so that their files load as they are. Three classes: a key is a field of `Config` (live), it matches `DEAD`
(accepted, and the reason why it changes nothing is told), or it is unknown (told, with the closest known key).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

ALIASES: dict[str, tuple[str, ...]] = {
    "worker_name": ("default_worker_name",),
    "models_to_load": ("image_models_to_load",),
    "models_to_skip": ("image_models_to_skip",),
    "dreamer_name": ("dreamer_worker_name",),
    "cache_home": ("models_folder_parent",),
    "allow_painting": ("allow_inpainting",),
    "civitai_api_token": ("CIVIT_API_TOKEN",),
    "gpus": ("gpu_device_indices",),
}
"""Other names of live keys. In one file the key itself wins over its alias."""

PREFIX = "AIWORKER_"
"""Begins the environment variables that set a key."""

REGEN = "REGEN_"
"""May follow the prefix: the reGen worker writes and reads both forms."""

PLAIN_VARIABLES: dict[str, str] = {"AI_HORDE_URL": "horde_url", "CIVIT_API_TOKEN": "civitai_api_token"}
"""Environment variables without our prefix that set a key; AIWORKER_<KEY> wins over them."""

INTERNAL_VARIABLES = frozenset({"AIWORKER_NOT_REQUIRED_VERSION", "AIWORKER_NOT_RECOMMENDED_VERSION"})
"""Left behind in the environment by other workers; they mean nothing and are passed over."""

RELOADED = frozenset(
    {
        "models_to_load",
        "models_to_skip",
        "max_power",
        "queue_size",
        "nsfw",
        "blacklist",
        "allow_img2img",
        "allow_painting",
        "allow_controlnet",
        "allow_sdxl_controlnet",
        "allow_lora",
        "allow_post_processing",
        "allow_unsafe_ip",
        "priority_usernames",
        "require_upfront_kudos",
        "extra_slow_worker",
        "limit_max_steps",
        "stats_output_frequency",
        "suppress_speed_warnings",
        "minutes_allowed_without_jobs",
        "drain_seconds",
    }
)
"""Keys whose change takes effect in a running worker; every other one needs a restart."""

UNSERVED: dict[str, str] = {
    "allow_painting": "jobs that paint into a picture are not served yet, so none is taken",
    "allow_controlnet": "ControlNet jobs are not served yet, so none is taken",
    "allow_sdxl_controlnet": "ControlNet jobs are not served yet, so none is taken",
    "allow_lora": "LoRA jobs are not served yet, so none is taken",
    "allow_post_processing": "post-processing is not served yet, so no job that asks for it is taken",
    "civitai_api_token": "nothing is downloaded from CivitAI",
}
"""Live keys that allow something which no engine of this version can do: told when they are switched on."""

_ONE_COPY = "weights are held once and memory is managed by itself"
_ONE_PROCESS = "every card has one process that runs many jobs at once; max_batch sets how many"
_NO_DOWNLOAD = "this worker downloads no models; it serves what lies under cache_home"
_MODELS_PLACE = "models are found under cache_home; name others in custom_models, or add them: models add PATH"
_IMAGES_ONLY = "this worker makes images only"
_MEASURED = "how much is taken ahead follows from the measured speed; queue_size limits it"
_TIMEOUTS = "a device that says nothing is restarted after process_timeout"
_NO_CLASSIFIER = (
    "nothing is censored, since this version cannot tell such pictures; jobs that demand it are handed back"
)
_DRY_RUN = "to run without a network, use `trt-worker demo`"

DEAD: dict[str, str] = {
    # Common to all workers of this family.
    "temp_dir": "no temporary files are written",
    "disable_terminal_ui": "there is no terminal interface",
    "always_download": _NO_DOWNLOAD,
    "extra_stable_diffusion_models_folders": _MODELS_PLACE,
    "max_lora_cache_size": _NO_DOWNLOAD,
    "lora_cache_size": _NO_DOWNLOAD,
    "censor_nsfw": _NO_CLASSIFIER,
    "censorlist": _NO_CLASSIFIER + "; words to refuse jobs by belong in blacklist",
    "disable_disk_cache": _ONE_COPY,
    "dynamic_models": "models do not change by themselves; name them in models_to_load",
    "number_of_dynamic_models": "models do not change by themselves; name them in models_to_load",
    "max_models_to_download": _NO_DOWNLOAD,
    "ram_to_leave_free": _ONE_COPY,
    "vram_to_leave_free": _ONE_COPY,
    "alchemist_name": _IMAGES_ONLY,
    "alchemist_worker_name": _IMAGES_ONLY,
    "forms": _IMAGES_ONLY,
    "scribe_name": _IMAGES_ONLY,
    "scribe_worker_name": _IMAGES_ONLY,
    "kai_url": _IMAGES_ONLY,
    "max_context_length": _IMAGES_ONLY,
    "max_length": _IMAGES_ONLY,
    "branded_model": _IMAGES_ONLY,
    # Of the image worker itself.
    "safety_on_gpu": "this version has no safety classifier",
    "cycle_process_on_model_change": _ONE_PROCESS,
    "inference_step_timeout": "process_timeout says how long a device may be silent, a step included",
    "unload_models_from_vram_often": _ONE_COPY,
    "post_process_timeout": _TIMEOUTS,
    "download_timeout": _NO_DOWNLOAD,
    "preload_timeout": _TIMEOUTS,
    "model_stickiness": "jobs for models that are loaded are not preferred by chance",
    "horde_model_stickiness": "jobs for models that are loaded are not preferred by chance",
    "high_memory_mode": _ONE_COPY,
    "very_high_memory_mode": _ONE_COPY,
    "high_performance_mode": _MEASURED,
    "moderate_performance_mode": _MEASURED,
    "very_fast_disk_mode": _ONE_COPY,
    "post_process_job_overlap": "stages of different jobs always overlap",
    "load_large_models": "a model is served if it lies under cache_home, however large",
    "purge_loras_on_download": _NO_DOWNLOAD,
    "capture_kudos_training_data": "no training data are recorded",
    "kudos_training_data_file": "no training data are recorded",
    # Of later versions of the Horde's worker.
    "gpu_overrides": "all cards are run with the same settings",
    "gpu_pop_balance_threshold": "a job goes to the card that is free first",
    "model_pool*": "models do not change by themselves; name them in models_to_load",
    "only_models_on_disk": _NO_DOWNLOAD,
    "extra_model_directories": _MODELS_PLACE,
    "download_rate_limit_kbps": _NO_DOWNLOAD,
    "download_max_parallel_downloads": _NO_DOWNLOAD,
    "downloads_paused": _NO_DOWNLOAD,
    "min_lora_disk_free_gb": _NO_DOWNLOAD,
    "vram_reserve_mb": _ONE_COPY,
    "ram_reserve_mb": _ONE_COPY,
    "ram_pressure_pause_percent": _ONE_COPY,
    "ram_per_process_max_mb": _ONE_COPY,
    "component_cache_budget_mb": _ONE_COPY,
    "max_inference_attempts": "a failed job is replayed on the next backend by itself",
    "inference_first_step_timeout": _TIMEOUTS,
    "self_maintenance_*": "the worker never sets itself to maintenance",
    "auto_clear_server_maintenance": "use remove_maintenance_on_init",
    "unservable_model_*": "a model that fails is reported, job by job",
    "dedicated_post_processing": _ONE_PROCESS,
    "gpu_sampling_lease_*": _ONE_PROCESS,
    "enable_pipeline_disaggregation": "stages of different jobs always overlap",
    "dry_run_skip_*": _DRY_RUN,
    "dashboard_*": "numbers for dashboards are served on metrics_port",
    # Of the workers before them (nataili).
    "nataili_cache_home": _MODELS_PLACE,
    "low_vram_mode": _ONE_COPY,
    "disable_voodoo": _ONE_COPY,
    "enable_model_cache": _ONE_COPY,
    "ray_temp_dir": "no temporary files are written",
    "enable_terminal_ui": "there is no terminal interface",
    # Only ever environment variables, of container files.
    "bridge_data_location": "name the file with -c",
    "logs_dir": "use log_dir",
}
"""Keys that are accepted and change nothing, with the reason. A `*` stands for any text."""


def dead_reason(key: str) -> str | None:
    """Why `key` changes nothing; None: it is not one of the dead keys."""
    return next((reason for pattern, reason in DEAD.items() if fnmatchcase(key, pattern)), None)


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child: without the variables that configure this worker, some of which are secrets."""
    return {
        name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in PLAIN_VARIABLES
    }
