"""The one exception for a user's mistakes.

The command line prints its message without a traceback; everything else is a bug of ours and
keeps its traceback.
"""


class UserError(ValueError):
    """Says what was wrong, where (file, line, step), and what to do about it."""
