"""One module per suite; each has `measure() -> {figure: value}`."""
