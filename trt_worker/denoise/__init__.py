"""The mathematics of denoising: schedules, samplers as coefficient programs, and noise, all without a device."""
