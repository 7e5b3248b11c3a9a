"""The one exception that is addressed to the user."""


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence: what is wrong (with the offending value), why, and what to do instead.
    The command line prints it without a traceback and exits with code 2; any other exception is our fault (code 1).
    """
