"""Every network that can be exported, as a module over the library's own, one declarative entry each."""
