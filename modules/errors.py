"""The one exception a person sees as a single line."""


class UserError(Exception):
    """A mistake the person at the keyboard can mend.

    The message is one line: what is wrong, where, and how to mend it. The command line prints it
    without a traceback and exits with code 2.
    """
