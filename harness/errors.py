"""The one exception a user may see: it carries the whole message, never a traceback."""


class HarnessError(Exception):
    """What is wrong, where (file, key, value), what was expected, and what to do next.

    The command line prints the message to standard error and exits with status 2.
    """


UNFORESEEN = (
    "error: unforeseen: either a file is damaged in a way that is not looked for, or this is a fault of the harness. "
    "`python -m harness doctor`, `verify-data` and `verify` look at what is here; nothing finished is lost. Above is "
    "where it happened"
)
