"""An architecture that nobody has heard of, in three files: that it is built and served shows where facts live."""
