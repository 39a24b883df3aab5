"""Common parts of the command lines: errors, grouped help, exit codes.

Exit codes: 0 done, 1 the user can mend it, 2 done but below the threshold (of a
batch: some runs failed), 70 a defect of dsg_tf, 130 interrupted (SIGINT), 143
terminated (SIGTERM, SIGHUP).
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

from dsg_tf.command_line import flag_values, flagfiles
from dsg_tf.core import (
    endings,
    errors,
    lifeline,
    quiet,
    signals,
    stages,
    streams,
)

_HELP_FLAGS = {"-h", "-help", "--help", "-helpshort", "--helpshort"}


def quantize() -> None:
    """The console script `dsg-quantize`: `python -m dsg_tf.quantize`."""
    runpy.run_module("dsg_tf.quantize", run_name="__main__", alter_sys=True)


def inspect() -> None:
    """The console script `dsg-inspect`: `python -m dsg_tf.inspect`."""
    runpy.run_module("dsg_tf.inspect", run_name="__main__", alter_sys=True)


def batch() -> None:
    """The console script `dsg-batch`: `python -m dsg_tf.batch`."""
    runpy.run_module("dsg_tf.batch", run_name="__main__", alter_sys=True)


def run(
    main: Callable[[], int],
    *,
    usage: str,
    groups: Mapping[str, Sequence[str]],
    values: flags.FlagValues = flags.FLAGS,
    resumes: Callable[[], bool] = lambda: False,
) -> None:
    """Parses the flags, runs `main`, and ends the process.

    Args:
      main: does the work and returns the exit code.
      usage: what the command does and an example; the head of `--help`.
      groups: names of flags under the title of their group, for `--help`.
      values: the flags, where they are not absl's global ones.
      resumes: whether, by the flags, the same command goes on with what a
        signal has ended.
    """
    _prepare_process()

    def parse(argv: list[str]) -> list[str]:
        if _HELP_FLAGS & set(argv[1:]):
            if hasattr(signal, "SIGPIPE"):  # `--help | head` closes the pipe.
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(help_text(usage, groups, values))
            sys.exit(0)
        code = guarded(lambda: _parse(argv, values))
        if code:
            sys.exit(code)
        return argv

    def work(argv: list[str]) -> int:
        del argv
        if not endings.shows_tracebacks():
            faulthandler.disable()  # absl has turned it on.
        code = guarded(main, resumes=resumes)
        signals.ignore()
        return code

    app.run(work, flags_parser=parse)


def _prepare_process() -> None:
    """What a process does for itself, and a library must not do."""
    signals.install()
    signals.watch()
    streams.harden()
    quiet.keep()
    lifeline.follow()
    sys.excepthook = _uncaught
    threading.excepthook = lambda raised: _show_log(raised.exc_value)
    # For instance a signal that came within a callback: see `stages.check`.
    sys.unraisablehook = lambda raised: None


def _uncaught(kind, error: BaseException, trace) -> None:
    del kind, trace
    code = _end(error)
    sys.stdout.flush()
    os._exit(code)


def _show_log(error: BaseException | None) -> None:
    """Of a thread that has failed: the main one goes on."""
    if error is not None and not isinstance(error, SystemExit):
        _end(error)


# absl's own: they write profiles to any place, or wait for a debugger.
_OF_DEVELOPERS = (
    "only_check_args",
    "pdb",
    "pdb_post_mortem",
    "profile_file",
    "run_with_pdb",
    "run_with_profiling",
    "use_cprofile_for_profiling",
)


def _parse(argv: list[str], values: flags.FlagValues) -> int:
    """Sets the flags; returns the exit code."""
    try:
        rest = values([*argv[:1], *flagfiles.expand(argv[1:])])
        if values is not flags.FLAGS:
            flags.FLAGS(argv[:1])  # absl's own logging reads those.
    except errors.UserError:
        raise
    # absl's own flags, --stderrthreshold for one, raise what they like.
    except (flags.Error, OverflowError, TypeError, ValueError) as error:
        return _fail(str(error))
    if len(rest) > 1:
        return _fail(f"got argument {rest[1]!r}; expected only flags")
    for name in _OF_DEVELOPERS:
        if name in values and values[name].present:
            return _fail(f"Unknown command line flag {name!r}")
    flag_values.check(values)
    return 0


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


def guarded(
    main: Callable[[], int], *, resumes: Callable[[], bool] = lambda: False
) -> int:
    """Runs `main`; whatever it raises becomes one line and an exit code.

    Args:
      main: does the work and returns the exit code.
      resumes: whether the same command goes on with what a signal has ended.
    """
    # TensorFlow's C++ side talks at length about CPUs and missing GPUs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.get_absl_handler().python_handler.stream = sys.stderr
    with signals.handled():
        try:
            try:
                with stages.within(stages.START):
                    code = main()
            finally:
                signals.finish()
            sys.stdout.flush()
            return code
        except BaseException as error:
            return _end(stages.cause(error), resumes=resumes)
        finally:
            stages.set_folder(None)


def _end(
    error: BaseException, *, resumes: Callable[[], bool] = lambda: False
) -> int:
    """Says how it ends, and returns the exit code."""
    goes_on = isinstance(error, KeyboardInterrupt) and resumes()
    ending = endings.of(error, resumes=goes_on)
    if threading.current_thread() is threading.main_thread():
        quiet.restore()
    print(ending.line, file=sys.stderr)
    return ending.code


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
    print(endings.line(message), file=sys.stderr)
    return endings.MENDABLE
