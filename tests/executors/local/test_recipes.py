"""Tricks with the arguments of ordinary programs, with no policy at all: the kernel has to hold them.

Each trick is run without the cage too, where it must work, so that its failure in the cage says something.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.executors.local.launcher import CageLauncher, cage_environment
from tests.executors.local.caged import ROOT, RUN_AS, SEARCH_PATH, Cage, folder, give, program, shell

CANARY = "canary-7f3a"
CONTROL_BOUND = 2.0  # seconds; some tools wait for a program that the trick has put there
PYTHON = "/usr/bin/python3"

# {secret}: a file outside. {outside}: a folder outside that everybody may write to. {victim}: a file in it.
# {tcp}, {udp}, {unix}: where somebody listens.
TRICKS: dict[str, list[str]] = {
    "find -exec": ["find", ".", "-maxdepth", "0", "-exec", "cat", "{secret}", ";"],
    "find -execdir": ["find", ".", "-maxdepth", "0", "-execdir", "cp", "{secret}", "{outside}/new", ";"],
    "find -ok": ["find", ".", "-maxdepth", "0", "-exec", "tee", "{outside}/new", ";"],
    "find -fprintf": ["find", ".", "-maxdepth", "0", "-fprintf", "{outside}/new", "x"],
    "find -fls": ["find", ".", "-maxdepth", "0", "-fls", "{outside}/new"],
    "find -fprint0": ["find", ".", "-maxdepth", "0", "-fprint0", "{outside}/new"],
    "find -delete": ["find", "{victim}", "-delete"],
    "tar --checkpoint-action": [
        "tar",
        "-cf",
        "/dev/null",
        "--checkpoint=1",
        "--checkpoint-action=exec=cat {secret}",
        ".",
    ],
    "tar --checkpoint-act": ["tar", "-cf", "/dev/null", "--checkpoint=1", "--checkpoint-act=exec=cat {secret}", "."],
    "tar --to-command": ["tar", "-xf", "plain.tar", "--to-command=cat {secret}"],
    "tar --to-com": ["tar", "-xf", "plain.tar", "--to-com=cp {secret} {outside}/new"],
    "tar -I": ["tar", "-I", "./copy", "-cf", "x.tar", "plain"],
    "tar --use-compress-program": ["tar", "--use-compress-program=./copy", "-cf", "x.tar", "plain"],
    "tar -F": ["tar", "-cML", "10", "-F", "./copy", "-f", "x.tar", "large"],
    "tar --rsh-command": ["tar", "-cf", "host:x", "--rsh-command=./copy", "plain"],
    "tar -f": ["tar", "-cf", "{outside}/new", "plain"],
    "tar -C": ["tar", "-xf", "plain.tar", "-C", "{outside}"],
    "tar -P": ["tar", "-xPf", "absolute.tar"],
    "tar --one-top-level": ["tar", "-xf", "plain.tar", "--one-top-level={outside}/new"],
    "tar --index-file": ["tar", "-cvf", "x.tar", "--index-file={outside}/new", "plain"],
    "tar -g": ["tar", "-cf", "x.tar", "-g", "{outside}/new", "plain"],
    "tar -h": ["tar", "-chf", "-", "link"],
    "tar -T": ["tar", "-cf", "-", "-T", "{secret}"],
    "tar of the secret": ["tar", "-cPf", "-", "{secret}"],
    "git -c alias": ["git", "-C", "repo", "-c", "alias.x=!cat {secret}", "x"],
    "git -c core.editor": ["git", "-C", "repo", "-c", "core.editor=../copy", "commit", "--allow-empty"],
    "git -c core.fsmonitor": ["git", "-C", "repo", "-c", "core.fsmonitor=../copy", "status"],
    "git -c core.sshCommand": ["git", "-C", "repo", "-c", "core.sshCommand=../copy", "ls-remote", "ssh://h/x"],
    "git -c diff.external": ["git", "-C", "repo", "-c", "diff.external=../copy", "diff"],
    "git -c core.hooksPath": [
        "git",
        "-C",
        "repo",
        "-c",
        "core.hooksPath=../hooks",
        "commit",
        "--allow-empty",
        "-m",
        "x",
    ],
    "git -c credential.helper": [
        "git",
        "-C",
        "repo",
        "-c",
        "credential.helper=!cat {secret} >&2;:",
        "credential",
        "fill",
    ],
    "git --upload-pack": ["git", "-C", "repo", "ls-remote", "--upload-pack=../copy", "."],
    "git --upl": ["git", "clone", "--upl=./copy", "repo", "other"],
    "git grep -O": ["git", "-C", "repo", "grep", "-O../copy", "text"],
    "git bisect run": shell("cd repo && git bisect start HEAD HEAD~1 && git bisect run ../copy"),
    "git rebase -x": ["git", "-C", "repo", "rebase", "-x", "../copy", "HEAD~1"],
    "git diff --no-index": ["git", "diff", "--no-index", "/dev/null", "{secret}"],
    "git blame --contents": ["git", "-C", "repo", "blame", "--contents", "{secret}", "file"],
    "git archive -o": ["git", "-C", "repo", "archive", "-o", "{outside}/new", "HEAD"],
    "git log --output": ["git", "-C", "repo", "log", "--output={outside}/new"],
    "git format-patch -o": ["git", "-C", "repo", "format-patch", "-o", "{outside}/new", "HEAD~1"],
    "git init": ["git", "init", "{outside}/new"],
    "git config -f": ["git", "config", "-f", "{outside}/new", "a.b", "c"],
    "git worktree": ["git", "-C", "repo", "worktree", "add", "{outside}/new"],
    "sort --compress-program": ["sort", "-S", "1k", "--compress-program=./copy", "large"],
    "sort --compress-prog": ["sort", "-S", "1k", "--compress-prog=./copy", "large"],
    "sort -o": ["sort", "-o", "{outside}/new", "plain"],
    "sort -T": ["sort", "-S", "1k", "-T", "{secret}", "-o", "{outside}/new", "plain"],
    "sort --files0-f": ["sort", "--files0-f={secret}"],
    "sort -m": ["sort", "-m", "{secret}"],
    "sed e": ["sed", "1e cat {secret}", "plain"],
    "sed s///e": ["sed", "s,.*,cat {secret},e", "plain"],
    "sed w": ["sed", "w {outside}/new", "plain"],
    "sed s///w": ["sed", "s,text,x,w {outside}/new", "plain"],
    "sed r": ["sed", "r {secret}", "plain"],
    "sed -i": ["sed", "-i", "s,.,x,", "{victim}"],
    "awk system": ["awk", 'BEGIN {{ system("cat {secret}") }}'],
    "awk pipe": ["awk", 'BEGIN {{ "cat {secret}" | getline x; print x }}'],
    "awk print |": ["awk", 'BEGIN {{ print "x" | "tee {outside}/new" }}'],
    "awk print >": ["awk", 'BEGIN {{ print "x" > "{outside}/new" }}'],
    "awk getline": ["awk", 'BEGIN {{ while ((getline x < "{secret}") > 0) print x }}'],
    "env": ["env", "cat", "{secret}"],
    "env -S": ["env", "-S", "cat {secret}"],
    "xargs": ["xargs", "-a", "plain", "cat", "{secret}"],
    "cat": ["cat", "{secret}"],
    "cat through a link": ["cat", "link"],
    "cat through /proc/self/root": ["cat", "/proc/self/root{secret}"],
    "cat through /proc/self/cwd": ["cat", "/proc/self/cwd/../secret"],
    "head": ["head", "{secret}"],
    "tail": ["tail", "{secret}"],
    "grep": ["grep", "", "{secret}"],
    "wc --files0-from": ["wc", "--files0-from={secret}"],
    "date -f": ["date", "-f", "{secret}"],
    "diff": ["diff", "{secret}", "plain"],
    "cut": ["cut", "-c1-", "{secret}"],
    "gzip": ["gzip", "-k", "{victim}"],
    "cp in": ["cp", "{secret}", "stolen"],
    "cp out": ["cp", "plain", "{outside}/new"],
    "cp over": ["cp", "plain", "{victim}"],
    "cp through a folder's link": ["cp", "plain", "out/new"],
    "mv in": ["mv", "{victim}", "stolen"],
    "mv out": ["mv", "plain", "{outside}/new"],
    "ln": ["ln", "{victim}", "stolen"],
    "dd": ["dd", "if=/dev/zero", "of={victim}", "count=1"],
    "tee": shell("echo x | tee {outside}/new"),
    "uniq": ["uniq", "plain", "{outside}/new"],
    "split": ["split", "plain", "{outside}/new"],
    "touch": ["touch", "{outside}/new"],
    "mkdir": ["mkdir", "{outside}/new"],
    "mkfifo": ["mkfifo", "{outside}/new"],
    "ln -s": ["ln", "-s", "x", "{outside}/new"],
    "rm": ["rm", "{victim}"],
    "truncate": ["truncate", "-s", "0", "{victim}"],
    "shell >": shell("echo x > {outside}/new"),
    "shell <": shell("read -r x < {secret}; echo $x"),
    "vim": ["vim", "-es", "-u", "NONE", "-c", "r {secret}", "-c", "w! {outside}/new", "-c", "q!"],
    "zip -T": ["zip", "-q", "x.zip", "plain", "-T", "-TT", "cat {secret}; #"],
    "zip -b": ["zip", "-q", "-b", "{outside}", "{outside}/new.zip", "plain"],
    "node fs": ["node", "-e", "console.log(require('fs').readFileSync('{secret}', 'utf8'))"],
    "node -r": ["node", "-r", "./evil.js", "-e", "0"],
    "node child_process": ["node", "-p", "require('child_process').execSync('cat {secret}') + ''"],
    "node write": ["node", "-e", "require('fs').writeFileSync('{outside}/new', 'x')"],
    "node net": ["node", "-e", "require('net').connect({tcp}).end('x')"],
    "npm run": ["npm", "run", "--silent", "evil"],
    "python read": [PYTHON, "-c", "print(open('{secret}').read())"],
    "python write": [PYTHON, "-c", "open('{outside}/new', 'w')"],
    "python tcp": [PYTHON, "-c", "import socket; socket.create_connection(('127.0.0.1', {tcp}))"],
    "python udp": [PYTHON, "-c", "import socket as s; s.socket(2, 2).sendto(b'x', ('127.0.0.1', {udp}))"],
    "python unix": [PYTHON, "-c", "import socket as s; s.socket(1, 1).connect('{unix}')"],
    "bash /dev/tcp": ["bash", "-c", "echo x > /dev/tcp/127.0.0.1/{tcp}"],
    "environment of the service": shell("cat /proc/{service}/environ"),
    "arguments of others": shell("cat /proc/{service}/cmdline"),
}
# Calls to the kernel that no program should get through with: what they are, and how.
CALLS = """
import ctypes, json, os, resource, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
page = ctypes.create_string_buffer(4096)
def call(number, *words):
    return libc.syscall(ctypes.c_long(number), *(ctypes.c_long(w) if isinstance(w, int) else w for w in words)) >= 0
service = int({service})
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
MOUNTS = (ctypes.c_uint64 * 4)(32, 0xFFFFFFFFFFFFFFFF, 0, 0)
tried = dict(
    unshare_user=lambda: libc.unshare(0x10000000) == 0,
    unshare_mount=lambda: libc.unshare(0x20000) == 0,
    clone_user=lambda: call({clone}, 0x10000000 | 17, 0, 0, 0, 0),
    mount=lambda: libc.mount(b"none", b"{root}", b"tmpfs", 0, None) == 0,
    fsopen=lambda: call(430, b"tmpfs", 0),
    open_tree=lambda: call(428, -100, b"/", 0),
    chroot=lambda: libc.chroot(b"{root}") == 0,
    setns=lambda: libc.setns(os.open("/proc/self/ns/net", os.O_RDONLY), 0) == 0,
    ptrace=lambda: libc.ptrace(16, service, 0, 0) == 0,
    read_memory=lambda: open("/proc/%d/mem" % service, "rb"),
    io_uring=lambda: call(425, 8, page),
    userfaultfd=lambda: call({userfaultfd}, 1),
    bpf=lambda: call({bpf}, 0, page, 48),
    perf=lambda: call({perf}, page, 0, -1, -1, 0),
    keyring=lambda: call({add_key}, b"user", b"name", b"data", 4, -3),
    shared_memory=lambda: libc.shmget(4711, 4096, 0o1777) >= 0,
    pidfd_getfd=lambda: call(438, os.pidfd_open(service), 1, 0),
    kill=lambda: os.kill(service, 0) is None,
    strangle=lambda: __import__("resource").prlimit(service, 7, (64, 64)) and True,
    renice=lambda: os.setpriority(0, service, 19) is None,
    packet=lambda: socket.socket(17, 3),
    netlink=lambda: socket.socket(16, 3),
    vsock=lambda: socket.socket(40, 1),
    device=lambda: os.mknod("{root}/device", 0o20666, os.makedev(1, 3)) is None,
    set_uid=lambda: os.chmod("{root}/plain", 0o4755) is None,
    set_uid_new=lambda: os.open("{root}/suid", os.O_CREAT | os.O_WRONLY, 0o4755),
    become_root=lambda: os.setuid(0) is None,
    change_mode=lambda: os.chmod("{victim}", 0o666) is None,
    change_owner=lambda: os.chown("{victim}", os.getuid(), -1) is None,
    type_into_terminal=lambda: __import__("fcntl").ioctl(0, 0x5412, b"x") and True,
    personality=lambda: libc.personality(0x40000) >= 0,
    abstract=lambda: socket.socket(1, 1).connect("\\0{abstract}") is None,
    watch=lambda: libc.inotify_add_watch(libc.inotify_init(), b"{outside}", 0xfff) >= 0,
    watch_too=lambda: libc.inotify_add_watch(libc.inotify_init1(0), b"{outside}", 0xfff) >= 0,
    renice_all=lambda: os.setpriority(os.PRIO_USER, 0, os.getpriority(0, 0)) is None,
    hold_up_all=lambda: call({ioprio_set}, 3, 0, 0),
    raw_unix=lambda: socket.socket(1, 3).sendto(b"x", "{datagrams}"),
    raw_pair=lambda: socket.socketpair(1, 3)[0].sendto(b"x", "{datagrams}"),
    foreign_memory=lambda: call({shmat}, {segment}, 0, 0),
    list_memory=lambda: libc.shmctl(0, 14, page) >= 0,
    list_semaphores=lambda: libc.semctl(0, 0, 19, page) >= 0,
    list_queues=lambda: libc.msgctl(0, 12, page) >= 0,
    set_uid_node=lambda: os.mknod("{root}/node", 0o104755) is None,
    attributes=lambda: os.listxattr("{victim}") is not None,
    attribute=lambda: os.getxattr("{victim}", "user.canary"),
    growing_memory=lambda: libc.mmap(None, 4096, 3, 0x122, -1, 0) != ctypes.c_void_p(-1).value,
    endless_stack=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, 1 << 30)) is None,
    asynchronous_io=lambda: call({io_setup}, 1, page),
    flush_all=lambda: call({syncfs}, 1),
    secret_memory=lambda: call(447, 0),
    list_mounts=lambda: call(458, MOUNTS, page, 8, 0),
    dump_by_program=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)) is None,
)
# Those that nothing but the cage keeps from an ordinary user.
alone = ["watch", "watch_too", "renice_all", "raw_unix", "raw_pair", "foreign_memory", "list_memory",
         "list_semaphores", "list_queues", "set_uid_node", "attributes", "dump_by_program", "growing_memory",
         "endless_stack", "flush_all", "asynchronous_io", "list_mounts"]
worked = []
for name in alone if "alone" in sys.argv else tried:
    try:
        if tried[name]():
            worked.append(name)
    except (OSError, ValueError):
        pass
print(json.dumps([len(alone if "alone" in sys.argv else tried), worked]))
"""
NUMBERS = {
    "x86_64": {
        "clone": 56,
        "userfaultfd": 323,
        "bpf": 321,
        "perf": 298,
        "add_key": 248,
        "ioprio_set": 251,
        "shmat": 30,
        "io_setup": 206,
        "syncfs": 306,
    },
    "aarch64": {
        "clone": 220,
        "userfaultfd": 282,
        "bpf": 280,
        "perf": 241,
        "add_key": 217,
        "ioprio_set": 30,
        "shmat": 196,
        "io_setup": 0,
        "syncfs": 267,
    },
}

# What has to work still: the command, and what its output must hold.
ORDINARY: list[tuple[list[str], str]] = [
    (["ls", "-la"], "plain"),
    (["cat", "plain"], "text"),
    (["grep", "-rn", "text", "."], "plain"),
    (["sed", "s/text/TEXT/", "plain"], "TEXT"),
    (["sed", "-i", "s/text/text/", "plain"], ""),
    (["awk", "{ print NR, $1 }", "plain"], "1 text"),
    (["tar", "-czf", "new.tgz", "plain", "repo"], ""),
    (["tar", "-xzf", "new.tgz", "-C", "hooks"], ""),
    (["gzip", "-k", "plain"], ""),
    (["git", "init", "-q", "fresh"], ""),
    (["git", "-C", "repo", "add", "."], ""),
    (["git", "-C", "repo", "commit", "-q", "--allow-empty", "-m", "more"], ""),
    (["git", "-C", "repo", "log", "--oneline"], "more"),
    (["git", "-C", "repo", "status", "--short"], ""),
    (["git", "-C", "repo", "diff", "HEAD~2"], "file"),
    (["git", "-C", "repo", "branch", "side"], ""),
    (["git", "clone", "-q", "repo", "cloned"], ""),
    (["find", ".", "-name", "plain", "-type", "f"], "./plain"),
    (["sort", "-r", "plain"], "text"),
    (["wc", "-l", "plain"], "1 plain"),
    (["head", "-n", "1", "plain"], "text"),
    (["tail", "-n", "1", "plain"], "text"),
    (["cut", "-c", "1-2", "plain"], "te"),
    (["uniq", "plain"], "text"),
    (["diff", "plain", "plain"], ""),
    (["mkdir", "-p", "a/b"], ""),
    (["cp", "-a", "plain", "a/b/copied"], ""),
    (["mv", "a/b/copied", "a/moved"], ""),
    (["ln", "-s", "moved", "a/linked"], ""),
    (["touch", "-d", "2020-01-01", "a/moved"], ""),
    (["chmod", "+x", "a/moved"], ""),
    (["rm", "-r", "a"], ""),
    (["date"], "20"),
    (["id", "-u"], "65534" if ROOT else str(os.getuid())),
    (["pwd"], "workspace"),
    (["env"], "PATH="),
    (["dd", "if=/dev/zero", "of=zeros", "bs=1k", "count=8"], "8192"),
    (["xargs", "-a", "plain", "echo"], "text"),
    (["zip", "-q", "new.zip", "plain"], ""),
    (["node", "-e", "console.log(require('os').cpus().length > 0, process.memoryUsage().rss > 0)"], "true true"),
    (["node", "script.js"], "child: ok"),
    (["npm", "run", "--silent", "good"], "good"),
    ([PYTHON, "-c", "import ssl, subprocess; print(subprocess.check_output(['echo', 'ok']))"], "ok"),
    ([PYTHON, "-c", "import threading as t; x = t.Thread(target=print, args=('ok',)); x.start(); x.join()"], "ok"),
    (shell("for i in 1 2 3; do echo $i; done | wc -l; (sleep 0 & wait); timeout 5 echo ok"), "ok"),
]


@dataclass
class Field:
    """A workspace, and outside of it what must not be read, changed or reached."""

    root: Path
    sockets: tuple[socket.socket, ...]
    service: subprocess.Popen[bytes]

    def __post_init__(self) -> None:
        self.outside, self.secret = self.root.parent / "outside", self.root.parent / "secret"
        self.words = {
            "root": str(self.root),
            "outside": str(self.outside),
            "secret": str(self.secret),
            "victim": str(self.outside / "victim"),
            "tcp": self.sockets[0].getsockname()[1],
            "udp": self.sockets[1].getsockname()[1],
            "unix": str(self.root.parent / "socket"),
            "abstract": self.root.parent.name,
            "service": self.service.pid,
            "datagrams": str(self.root.parent / "datagrams"),
        }

    def fill(self) -> None:
        """Everything as it is before a trick."""
        for path in (self.root, self.outside):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        give(self.root)
        self.outside.chmod(0o777)
        self.secret.write_text(CANARY + "\n")
        (self.outside / "victim").write_text(CANARY + "\n")
        (self.outside / "victim").chmod(0o666)
        self._plant()
        self.before = self._look()

    def _plant(self) -> None:
        copy = f"#!/bin/sh\ncat {self.secret} >&2\ncp {self.secret} {self.outside}/new\n"
        package = {"scripts": {"evil": f"cat {self.secret}", "good": "echo good"}}
        script = "console.log('child: ' + require('child_process').execSync('echo ok'))"
        (self.root / "hooks").mkdir()
        for name, content in {
            "plain": "text\n",
            "large": "some text\n" * 20000,
            "copy": copy,
            "hooks/pre-commit": copy,
            "evil.js": f"console.log(require('fs').readFileSync('{self.secret}', 'utf8'))",
            "script.js": script,
            "package.json": json.dumps(package),
        }.items():
            (self.root / name).write_text(content)
        for name in ("copy", "hooks/pre-commit"):
            (self.root / name).chmod(0o755)
        (self.root / "link").symlink_to(self.secret)
        (self.root / "out").symlink_to(self.outside)
        with tarfile.open(self.root / "plain.tar", "w") as archive:
            archive.add(self.root / "plain", "plain")
        with tarfile.open(self.root / "absolute.tar", "w") as archive:
            entry = archive.gettarinfo(self.root / "plain")
            entry.name = f"{self.outside}/new"
            with (self.root / "plain").open("rb") as file:
                archive.addfile(entry, file)
        shutil.copytree(REPOSITORY, self.root / "repo")
        for path in self.root.rglob("*"):
            if RUN_AS and not path.is_symlink():
                os.chown(path, *RUN_AS)

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in self.outside.rglob("*"):
            about = path.lstat()
            found[str(path)] = (about.st_mode, about.st_uid, path.read_bytes() if path.is_file() else b"")
        return found

    def effects(self, output: bytes) -> list[str]:
        """What a trick has brought about outside, or brought in."""
        stolen = [
            path
            for path in self.root.rglob("*")
            if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes()
        ]
        found = [name for name, seen in (("read", CANARY.encode() in output), ("copied", bool(stolen))) if seen]
        if self._look() != self.before:
            found.append("changed")
        if select.select(self.sockets, [], [], 0)[0]:
            found.append("reached")
            for each in self.sockets:
                self._drain(each)
        return found

    def _drain(self, each: socket.socket) -> None:
        while select.select([each], [], [], 0)[0]:
            if each.type == socket.SOCK_DGRAM:
                each.recv(100)
            else:
                each.accept()[0].close()


@contextmanager
def segment() -> Iterator[int]:
    """Shared memory of System V that everybody may use."""
    libc = ctypes.CDLL(None, use_errno=True)
    memory: int = libc.shmget(0, 4096, 0o1666)
    assert memory >= 0
    try:
        yield memory
    finally:
        libc.shmctl(memory, 0, None)


REPOSITORY = Path()


@pytest.fixture(scope="module")
def repository() -> Iterator[Path]:
    """A repository of two commits and a change, made once and copied."""
    global REPOSITORY
    with tempfile.TemporaryDirectory() as name:
        REPOSITORY = Path(name) / "repo"
        script = (
            "git init -q . && git config user.name n && git config user.email e && echo text > file && git add . && "
            "git commit -qm one && echo more text >> file && git commit -qam two"
        )
        REPOSITORY.mkdir()
        environment = {"PATH": SEARCH_PATH, **cage_environment(name)}
        subprocess.run(shell(script), cwd=REPOSITORY, env=environment, check=True)
        yield REPOSITORY


@pytest.fixture
def place(repository: Path) -> Iterator[Field]:
    with folder() as root:
        sockets = tuple(socket.socket(family, kind) for family, kind in ((2, 1), (2, 2), (1, 1), (1, 1), (1, 2)))
        for each in sockets[:2]:
            each.bind(("127.0.0.1", 0))
        sockets[2].bind(str(root.parent / "socket"))
        sockets[3].bind(f"\0{root.parent.name}")
        for each in (sockets[0], *sockets[2:4]):
            each.listen(100)
        sockets[4].bind(str(root.parent / "datagrams"))
        for name in ("socket", "datagrams"):
            (root.parent / name).chmod(0o777)
        # Stands for the service: its environment holds a secret.
        service = subprocess.Popen([CANARY, "1000"], executable=program("sleep"), env={"SECRET": CANARY})
        try:
            field = Field(root, sockets, service)
            yield field
        finally:
            service.kill()
            service.wait()
            for each in sockets:
                each.close()


def present(argv: list[str]) -> bool:
    return os.path.exists(argv[0] if "/" in argv[0] else program(argv[0]))


def tricks(place: Field) -> Iterator[tuple[str, list[str]]]:
    """Those whose program is here."""
    for name, argv in TRICKS.items():
        words = [word.format(**place.words) for word in argv]
        if present(words):
            yield name, words


def uncaged(place: Field, argv: list[str]) -> bytes:
    environment = {"PATH": SEARCH_PATH, **cage_environment(str(place.root))}
    user, group = RUN_AS or (None, None)
    groups: list[int] | None = [] if RUN_AS else None
    with subprocess.Popen(
        argv,
        cwd=place.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=user,
        group=group,
        extra_groups=groups,
    ) as process:
        try:
            return process.communicate(timeout=CONTROL_BOUND)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()[0]


@pytest.fixture
def launcher(tmp_path: Path) -> CageLauncher:
    return CageLauncher(tmp_path, RUN_AS)


def test_the_tricks_work_without_the_cage(place: Field) -> None:
    """All but two kinds: those that an ordinary user's permissions stop, and those that this version of the tool has lost."""
    idle = []
    for name, argv in tricks(place):
        place.fill()
        if not place.effects(uncaged(place, argv)):
            idle.append(name)
    print(f"{len(list(tricks(place)))} tricks, {len(idle)} without effect here: {', '.join(idle)}")
    assert len(idle) <= len(list(tricks(place))) // 8


@pytest.fixture(params=["L2", "L3"])
def cage(place: Field, launcher: CageLauncher, request: pytest.FixtureRequest) -> Iterator[Cage]:
    """A cage whose commands run without a room, and one with."""
    caged = Cage(launcher, place.root, rooms={} if request.param == "L3" else None)
    yield caged
    for room in (caged.rooms or {}).values():
        room.close()


def test_no_trick_has_an_effect_outside(place: Field, cage: Cage, request: pytest.FixtureRequest) -> None:
    if cage.rooms is not None and not request.config.getoption("--long"):
        pytest.skip("takes long: run with --long")
    worked = {}
    for name, argv in tricks(place):
        place.fill()
        done = cage.run(argv)
        if found := place.effects(done.output):
            worked[name] = found
    print(f"{len(list(tricks(place)))} tricks, effects outside: {len(worked)}")
    assert worked == {}
    assert place.service.poll() is None


def test_no_call_gets_through(place: Field, cage: Cage) -> None:
    if not os.path.exists(PYTHON):
        pytest.skip("no Python that is open to all")
    place.fill()
    with suppress(OSError):
        os.setxattr(place.outside / "victim", "user.canary", b"x")
    with segment() as memory:
        calls = CALLS
        for name, value in {**place.words, **NUMBERS[os.uname().machine], "segment": memory}.items():
            calls = calls.replace("{" + name + "}", str(value))
        count, worked = json.loads(uncaged(place, [PYTHON, "-c", calls, "alone"]))
        assert len(worked) == count, worked
        assert place.effects(b"") == ["reached"]
        (place.root / "node").unlink()
        done = cage.run([PYTHON, "-c", calls])
    assert done.codes == [0], done.text
    count, worked = json.loads(done.text)
    print(f"{count} calls, {len(worked)} got through")
    # Of the service's own user, mode and priority can be changed: this is told as a gap.
    # In a room, netlink shows the room's own interfaces.
    known = set() if cage.rooms is None else {"netlink"}
    assert set(worked) <= known | (set() if ROOT else {"change_mode", "change_owner"})
    assert place.effects(done.output) == []


def test_nobody_can_be_killed(place: Field, launcher: CageLauncher) -> None:
    place.fill()
    done = Cage(launcher, place.root).run(
        shell(f"kill -9 {place.service.pid}; kill -9 {os.getpid()}; kill -9 -1; exit 5")
    )
    assert place.service.poll() is None
    assert done.codes[0] in (5, -9)  # the last kill reaches the shell's own fellows, and may reach itself


def test_su_and_setuid_programs_gain_nothing(place: Field, launcher: CageLauncher) -> None:
    place.fill()
    for argv in (["su", "-c", "id -u"], ["su", "root", "-c", "id -u"], ["mount", "-t", "tmpfs", "x", "hooks"]):
        if present(argv):
            done = Cage(launcher, place.root).run(argv)
            assert done.codes != [0]
            assert done.text.split() != ["0"]


def test_ordinary_commands_work(place: Field, cage: Cage) -> None:
    place.fill()
    failed = []
    commands = [(argv, wanted) for argv, wanted in ORDINARY if present(argv)]
    for argv, wanted in commands:
        done = cage.run(argv)
        if done.codes != [0] or wanted not in done.text:
            failed.append((argv, done.codes, done.text[:300]))
    print(f"{len(commands) - len(failed)} of {len(commands)} ordinary commands work")
    assert failed == []
    assert len(commands) >= 20


def test_with_network_the_internet_is_reached_and_files_are_not(place: Field, launcher: CageLauncher) -> None:
    if not os.path.exists(PYTHON):
        pytest.skip("no Python that is open to all")
    place.fill()
    cage = Cage(launcher, place.root)
    for kind in ("python tcp", "python udp"):
        argv = [word.format(**place.words) for word in TRICKS[kind]]
        assert place.effects(cage.run(argv, network=True).output) == ["reached"], kind
    assert place.effects(cage.run(["cat", str(place.secret)], network=True).output) == []
    refused = cage.run([PYTHON, "-c", "import socket; socket.socket(17, 3)"], network=True)
    assert "PermissionError" in refused.text
