"""Opens files in a workspace for the service itself: the kernel keeps the path inside, even if parts are swapped meanwhile.

openat2 with RESOLVE_BENEATH follows links that stay inside. On kernels without openat2 the path is opened folder by
folder, and no link is followed.
"""

import ctypes
import errno
import os
import stat
import struct
from pathlib import PurePosixPath

OPENAT2 = 437  # system call
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 0x02, 0x08
NULL = "/dev/null"
MODES = {
    "<": os.O_RDONLY,
    ">": os.O_WRONLY | os.O_CREAT,
    ">>": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}
# Non-blocking, so that a FIFO whose other end is not open is refused instead of waited for.
COMMON = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
FILE_MODE = 0o644

_libc = ctypes.CDLL(None, use_errno=True)


def open_inside(root: str, cwd: str, target: str, operator: str, owner: tuple[int, int] | None) -> int:
    """Open the file of a redirection (`<`, `>`, `>>`), named from `cwd`, inside `root`.

    With an `owner` (uid, gid) a new file is given to it, and an existing one must be writable for it. Raises OSError.
    """
    flags = MODES[operator] | COMMON
    if target == NULL:
        return os.open(NULL, flags)
    path = PurePosixPath(cwd) / target
    try:
        relative = str(path.relative_to(root))
        if operator == "<":
            return _checked(_open_beneath(root, relative, flags), operator, None)
        return _open_to_write(root, relative, flags, operator, owner)
    except ValueError as error:
        raise OSError(errno.EXDEV, "It is outside the workspace", target) from error
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), target) from error


def open_folder(root: str, relative: str) -> int:
    """Open a folder inside `root` to list it. Raises OSError."""
    return _open_beneath(root, relative, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _open_to_write(root: str, relative: str, flags: int, operator: str, owner: tuple[int, int] | None) -> int:
    try:
        made = _open_beneath(root, relative, flags | os.O_EXCL)
    except FileExistsError:
        return _checked(_open_beneath(root, relative, flags & ~os.O_CREAT), operator, owner)
    if owner:
        os.fchown(made, *owner)
    return made


def _open_beneath(root: str, relative: str, flags: int) -> int:
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened = _openat2(folder, relative, flags)
        return opened if opened is not None else _walk(folder, relative, flags)
    finally:
        os.close(folder)


def _openat2(folder: int, relative: str, flags: int) -> int | None:
    """None where the kernel lacks the call."""
    mode = FILE_MODE if flags & os.O_CREAT else 0
    how = struct.pack("QQQ", flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    opened: int = _libc.syscall(OPENAT2, folder, os.fsencode(relative), how, ctypes.c_size_t(len(how)))
    if opened >= 0:
        return opened
    if ctypes.get_errno() in {errno.ENOSYS, errno.EPERM}:
        return None
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))  # the subclass for this number


def _walk(folder: int, relative: str, flags: int) -> int:
    """Open one path component after the other, following no link."""
    *parents, name = PurePosixPath(relative).parts or (".",)
    if ".." in parents or name == "..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    current = os.dup(folder)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = inner
        return os.open(name, flags | os.O_NOFOLLOW, FILE_MODE, dir_fd=current)
    finally:
        os.close(current)


def _checked(descriptor: int, operator: str, owner: tuple[int, int] | None) -> int:
    """Accept regular files only; truncate the file of `>` once it is known to be writable."""
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        # As root the service may write everywhere; the programs, for which it opens the file, may not.
        if owner and info.st_uid != owner[0] and not info.st_mode & stat.S_IWOTH:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if operator == ">":
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
