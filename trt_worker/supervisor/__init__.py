"""The process that takes jobs, places them on devices, and hands their pictures in."""
