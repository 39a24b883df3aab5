"""Errors that a user can cause and fix, each reported in one line.

Every error that a user's input can cause is a `UserError` of four parts:
the subject (file, flag or layer), the value found, the value expected, and the
remedy. The command lines print it as one line and exit with code 1; any other
exception that escapes is a defect of dsg_tf (see `endings`).
"""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user can fix.

    Args:
      subject: what the error is about, e.g. `--input_shape` or a path.
      got: what was found there.
      expected: what would have been right.
      remedy: what to do now; may be empty where `expected` says it all.

    Examples:
      >>> print(UserError("--seed", got="-1", expected="an integer >= 0"))
      --seed: got -1; expected an integer >= 0
    """

    def __init__(
        self, subject: str, *, got: str, expected: str, remedy: str = ""
    ):
        self.subject = subject
        self.got = got
        self.expected = expected
        self.remedy = remedy
        line = f"{subject}: got {got}; expected {expected}"
        if remedy:
            line += f"; {remedy}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self):
        parts = (self.subject, self.got, self.expected, self.remedy)
        return _rebuild, (type(self), *parts)


class ResourceError(UserError):
    """The machine lacks a resource, for instance disk space.

    The same command may succeed later, so finished work is kept.
    """


def first_line(error: Exception, most: int = 160) -> str:
    """The first line of what an error says, for a line of ours.

    Args:
      error: of a library.
      most: characters.

    Examples:
      >>> first_line(ValueError("no shape\\nat x.py:3"))
      'no shape'
      >>> first_line(KeyError())
      'KeyError'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= most else f"{lines[0][: most - 3]}..."


def _rebuild(
    kind: type[UserError], subject: str, got: str, expected: str, remedy: str
) -> UserError:
    return kind(subject, got=got, expected=expected, remedy=remedy)
