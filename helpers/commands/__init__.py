"""One module a verb of ``python -m helpers``; each has ``add_arguments(parser)`` and ``run(arguments) -> int``."""
