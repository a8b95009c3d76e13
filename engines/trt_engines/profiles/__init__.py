"""Which shapes an engine is built for: from a histogram of jobs to profiles, under a memory and a disk budget."""
