"""The one exception a user may see: it carries the whole message, never a traceback."""


class HarnessError(Exception):
    """What is wrong, where (file, key, value), what was expected, and what to do next.

    The command line prints the message to standard error and exits with status 2.
    """
