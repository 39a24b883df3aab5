"""What the command lines share: one-line errors, grouped help, exit codes.

Exit codes: 0 done, 1 the user can mend it, 2 done but below the threshold (of a
batch: some runs failed), 130 interrupted.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

from dsg_tf import errors, lifeline

_HELP_FLAGS = {"-h", "-help", "--help", "-helpshort", "--helpshort"}


def quantize() -> None:
    """The console script `dsg-quantize`: `python -m dsg_tf.quantize`."""
    runpy.run_module("dsg_tf.quantize", run_name="__main__", alter_sys=True)


def batch() -> None:
    """The console script `dsg-batch`: `python -m dsg_tf.batch`."""
    runpy.run_module("dsg_tf.batch", run_name="__main__", alter_sys=True)


def run(
    main: Callable[[], int],
    *,
    usage: str,
    groups: Mapping[str, Sequence[str]],
    values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Parses the flags, runs `main`, and ends the process.

    Args:
      main: does the work and returns the exit code.
      usage: what the command does and an example; the head of `--help`.
      groups: names of flags under the title of their group, for `--help`.
      values: the flags, where they are not absl's global ones.
    """
    lifeline.follow()

    def parse(argv: list[str]) -> list[str]:
        if _HELP_FLAGS & set(argv[1:]):
            if hasattr(signal, "SIGPIPE"):  # `--help | head` closes the pipe.
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(help_text(usage, groups, values))
            sys.exit(0)
        try:
            rest = values(argv)
            if values is not flags.FLAGS:
                flags.FLAGS(argv[:1])  # absl's own logging reads those.
        except flags.Error as error:
            sys.exit(_fail(str(error)))
        if len(rest) > 1:
            sys.exit(_fail(f"got argument {rest[1]!r}; expected only flags"))
        return rest

    app.run(lambda argv: guarded(main), flags_parser=parse)


def require(values: flags.FlagValues, *names: str) -> None:
    """Refuses flags that are not given, with their help as what is expected.

    Raises:
      errors.UserError: the first one that has no value.
    """
    for name in names:
        if not values[name].value:
            raise errors.UserError(
                f"--{name}",
                got="nothing",
                expected=_mid_sentence(values[name].help),
                remedy="--help lists all flags",
            )


def _mid_sentence(text: str) -> str:
    first, space, rest = text.rstrip(".").partition(" ")
    # Not the S of SavedModel.
    return (first.lower() if first.istitle() else first) + space + rest


def guarded(main: Callable[[], int]) -> int:
    """Runs `main`; what a user can mend becomes one line and exit code 1."""
    # TensorFlow's C++ side talks at length about CPUs and missing GPUs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.get_absl_handler().python_handler.stream = sys.stderr
    try:
        return main()
    except errors.UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        line = "interrupted; the same command goes on from here"
        print(line, file=sys.stderr)
        return 130


def help_text(
    usage: str,
    groups: Mapping[str, Sequence[str]],
    values: flags.FlagValues = flags.FLAGS,
) -> str:
    """The flags by group, each with its help and default."""
    lines = [textwrap.dedent(usage).strip()]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            flag = values[name]
            text = " ".join(flag.help.split()).partition("; repeat this")[0]
            if flag.default not in (None, "", False) and flag.default != []:
                text += f" [{flag.default}]"
            lines += textwrap.wrap(
                text,
                width=79,
                initial_indent=f"  --{name:18} ",
                subsequent_indent=" " * 23,
            )
    return "\n".join(lines)


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
