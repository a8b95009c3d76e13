"""What the figures are to reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on one figure."""

    least: float | None = None
    most: float | None = None

    def reached(self, value: float) -> bool:
        """Whether a measured value keeps the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        bounds = (
            f">= {self.least:g}" if self.least is not None else "",
            f"<= {self.most:g}" if self.most is not None else "",
        )
        return ", ".join(filter(None, bounds))


TARGETS = {
    "parity_min_psnr_db": Target(least=55),
    "parity_control_db": Target(most=25),
    "families_served_missing": Target(most=0),
    "architecture_files": Target(most=3),
    "architecture_files_changed": Target(most=0),
    "sdxl_unet_export_s": Target(most=120),
    "slowest_export_s": Target(most=300),
    "served_sd15_peak_gb": Target(most=8),
    "served_sdxl_peak_gb": Target(most=16),
    "models_add_sd15_s": Target(most=20),
    "models_add_sd15_mb": Target(most=50),
    "pipeline_vs_diffusers": Target(least=1.3),
    "pipeline_vs_diffusers_sequential": Target(least=1.6),
    "loop_overhead": Target(most=0.03),
    "batched_max_pixel_diff": Target(most=2),
    "shapes_correct": Target(least=90),
    "host_jobs_per_s": Target(least=150),
    "loop_lag_p99_ms": Target(most=10),
    "supervisor_rss_mb": Target(most=120),
    "supervisor_ready_s": Target(most=1.5),
    "architectures_parity_max_rel": Target(most=1e-4),
    "architectures_built": Target(least=1),
    "largest_graph_mb": Target(most=40),
    "next_checkpoint_mb": Target(most=50),
    "same_request_same_engine": Target(least=1),
    "sd15_unet_export_s": Target(most=120),
    "sd15_unet_build_s": Target(most=60),
    "sd15_unet_build_peak_gb": Target(most=7),
    "sdxl_unet_export_peak_gb": Target(most=2),
    "sdxl_unet_build_s": Target(most=150),
    "sdxl_unet_build_peak_gb": Target(most=16),
    "sim4090_batching_gain": Target(least=1.3),
    "sim4090_p99_wait_ratio": Target(most=3),
    "costmodel_worst_error": Target(most=0.25),
    "step_host_us": Target(most=150),
    "fast_path_imports_torch": Target(most=0),
    "device_first_step_s": Target(most=2),
    "noise_asked_us_64": Target(most=50),
    "noise_dpmpp_sde_us_64": Target(most=3000),
    "noise_start_us_128": Target(most=2000),
    "schedules_run": Target(least=1000),
    "schedules_hazards": Target(most=0),
    "faults_answered_once": Target(least=1000),
    "faults_wrong_images": Target(most=0),
    "unexpected_points_missing": Target(most=0),
    "jobs_lost": Target(most=0),
    "ordinary_answered": Target(least=1000),
    "devices_lost": Target(most=0),
    "damaged_model_errors": Target(most=5),
    "long_prompts_alike": Target(least=300),
    "layouts_bound_missing": Target(most=0),
    "layouts_refused_rightly_missing": Target(most=0),
    "restart_gap_s": Target(most=12),
    "lost_on_reload": Target(most=0),
    "build_seconds_over_planned_shapes_tiny": Target(least=0.75, most=1.3),
    "build_seconds_over_planned_sd15": Target(least=0.75, most=1.3),
    "certify_share": Target(most=0.5),
}
