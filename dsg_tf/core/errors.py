"""What a user can get wrong, said in one line.

Every error that a user's input can cause is a `UserError` of four parts:
the subject (which file, flag, layer), what it got, what was expected, and
the remedy. The command lines print it as one line and exit with code 1;
anything else that escapes is a defect of dsg_tf; see `endings`.
"""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user can mend.

    Args:
      subject: what the error is about, e.g. `--input_shape` or a path.
      got: what was found there.
      expected: what would have been right.
      remedy: what to do now; may be empty where `expected` says it all.

    Example:
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
    """The machine is what has to change, for instance a disk that is full.

    The same command may work later, so that what is finished is kept for it.
    """


def _rebuild(
    kind: type[UserError], subject: str, got: str, expected: str, remedy: str
) -> UserError:
    return kind(subject, got=got, expected=expected, remedy=remedy)
