"""Training shapes-tiny: the autoencoder, then text encoder and denoiser together, then the decoder once more."""
