"""The one exception for a user's mistakes, and what to do where an extra is missing.

The command line prints its message without a traceback; everything else is a bug of ours and
keeps its traceback.
"""


class UserError(ValueError):
    """Says what was wrong, where (file, line, step), and what to do about it."""


def install_extra(extra: str) -> str:
    """How an extra of lmlab is installed, for a message. lmlab is in no package index, so its name
    alone (`pip install lmlab`) would find nothing, or a stranger's package."""
    from importlib.metadata import version

    wheel = f"lmlab-{version('lmlab')}-py3-none-any.whl"
    return (
        f"pip install -e '.[{extra}]' in the folder of lmlab's repository, or with its wheel "
        f"pip install './{wheel}[{extra}]'"
    )
