"""What is wrong with how a command ended, and with what it left."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Collection, Iterable, Mapping

from tools.faults import processes

# Part of the name of every file that only code of a model would make.
SENTINEL = "SENTINEL"
UNKNOWN_FAULT = 70
_TRACEBACK = re.compile(
    r"^\s*(Traceback \(most recent call last\)|Fatal Python error)", re.M
)
_ERROR = "error: "
# Longer files are told apart by size and ends; none of the originals is.
_WHOLE = 64 << 20

Snapshot = Mapping[str, str]


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """What lies below a folder: a text for each path, which tells content.

    Args:
      folder: it need not be there; links are not followed.

    Returns:
      By path below `folder`.
    """
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = pathlib.Path(place) / name
            found[str(path.relative_to(folder))] = _content(path)
    return found


def _content(path: pathlib.Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return f"special {stat.S_IFMT(mode):o}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(file.read(_WHOLE))
        if size > _WHOLE:
            file.seek(max(size - _WHOLE, _WHOLE))
            digest.update(file.read(_WHOLE))
    return f"{size} bytes {digest.hexdigest()}"


def of_process(
    ended: processes.Ended, *, allowed: Collection[int] = (0, 1, 2)
) -> list[str]:
    """What is wrong with an exit code and with what was printed.

    Args:
      ended: the process.
      allowed: exit codes that are right.
    """
    findings = []
    if ended.stopped:
        kind = {"time": "hang", "memory": "memory"}[ended.stopped]
        findings.append(f"{kind}: killed after {ended.seconds:.0f} s")
    elif ended.code < 0:
        findings.append(f"crash: signal {-ended.code}{_last(ended.stderr)}")
    elif ended.code == UNKNOWN_FAULT:
        findings.append(f"unknown fault: exit code 70{_last(ended.stderr)}")
    elif ended.code not in allowed:
        findings.append(
            f"exit code: {ended.code}, not one of"
            f" {', '.join(map(str, allowed))}{_last(ended.stderr)}"
        )
    if _TRACEBACK.search(ended.stderr) or _TRACEBACK.search(ended.stdout):
        findings.append(
            f"traceback: exit code {ended.code}{_last(ended.stderr)}"
        )
    elif ended.code == 1 and not ended.stopped:
        findings += _of_line(ended.stderr)
    if ended.orphans:
        findings.append(f"orphan: {ended.orphans} processes")
    return findings


def _of_line(stderr: str) -> list[str]:
    """Exit code 1 means one line that says what to mend, and it is last."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    count = sum(line.startswith(_ERROR) for line in lines)
    if count != 1:
        return [f"line: {count} error lines{_last(stderr)}"]
    if not lines[-1].startswith(_ERROR):
        return [f"line: more follows the error{_last(stderr)}"]
    return []


def _last(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return f" ({lines[-1].strip()[:200]})" if lines else ""


def of_files(
    before: Snapshot,
    after: Snapshot,
    *,
    code: int,
    own: Collection[str] = (),
) -> list[str]:
    """What is wrong with the files that a command leaves.

    Args:
      before, after: of the folder that it ran in.
      code: its exit code; after 1 nothing new may be there.
      own: paths that the command may write, with all below and beside them
        that begins so: its output and its run folder. An input is none.
    """
    changed = sorted(
        path
        for path, content in before.items()
        if after.get(path) != content and not _is_own(path, own)
    )
    new = sorted(set(after) - set(before))
    stray = [p for p in new if code == 1 or not _is_own(p, own)]
    findings = [_of_sentinels(new)] if _of_sentinels(new) else []
    if changed:
        findings.append(f"input changed: {_few(changed)}")
    if stray:
        findings.append(f"left: {_few(stray)}")
    return findings


def _of_sentinels(paths: Iterable[str]) -> str:
    found = [p for p in paths if SENTINEL in p]
    return f"sentinel: {_few(found)}" if found else ""


def _is_own(path: str, own: Collection[str]) -> bool:
    return any(path.startswith(prefix) for prefix in own)


def _few(paths: list[str]) -> str:
    shown = ", ".join(path[:80] for path in paths[:3])
    return shown + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
