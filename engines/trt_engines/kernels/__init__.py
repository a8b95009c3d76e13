"""The kernels we own: CUDA C for cards, a NumPy twin of each for everything else."""
