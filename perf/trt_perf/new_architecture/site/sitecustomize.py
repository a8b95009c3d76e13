"""Where processes of the trial find the new architecture's files, as if they lay in the packages."""

from importlib import import_module

from trt_perf.new_architecture.trial import HERE, PACKAGES

for folder, package in PACKAGES.items():
    import_module(package).__path__.append(str(HERE / "files" / folder))
