"""Commands that reproduce published results: ``python -m experiments.NAME``, one module each."""

import itertools
import sys


def _is_the_program() -> bool:
    """Whether this process is ``python -m experiments.NAME``, and not one that imports this package.

    ``sys.argv[0]`` is "-m" only while Python looks for the module of ``python -m``.
    """
    pairs = itertools.pairwise(sys.orig_argv)
    named = any(a == "-m" and b.startswith("experiments.") for a, b in pairs)
    joined = any(word.startswith("-mexperiments.") for word in sys.orig_argv)
    return sys.argv[:1] == ["-m"] and (named or joined)


if _is_the_program():  # before the imports of the command, which take seconds
    from experiments.shared.system.stopping import listen

    listen()

    from experiments.shared.system.compiled import keep

    keep()
