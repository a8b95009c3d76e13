"""`shapes-tiny`, the model that ships with the worker: drawn, trained, exported and judged by the files beside this."""
