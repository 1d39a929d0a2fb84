"""Found before the real one: a process that has this folder on its path has no uvloop."""

raise ImportError("uvloop is hidden here")
