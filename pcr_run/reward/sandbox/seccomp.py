"""The system calls that a candidate may make: a list of what a Python program needs; all others fail with EACCES.

No socket, no new process, no signal to others, no change of ownership, modes or limits, no mount, ptrace or io_uring.
"""

from __future__ import annotations

import errno
import platform
import struct

from pcr_run.errors import ConfigError

# name: number on x86_64 and on aarch64, None where it does not exist
_ALLOWED = """
read,0,63 write,1,64 readv,19,65 writev,20,66 pread64,17,67 pwrite64,18,68 open,2, openat,257,56 close,3,57 fstat,5,80
stat,4, lstat,6, newfstatat,262,79 statx,332,291 lseek,8,62 access,21, faccessat,269,48 faccessat2,439,439
readlink,89, readlinkat,267,78 getcwd,79,17 chdir,80,49 getdents64,217,61 mmap,9,222 mprotect,10,226 munmap,11,215
brk,12,214 mremap,25,216 madvise,28,233 rt_sigaction,13,134 rt_sigprocmask,14,135 rt_sigreturn,15,139
sigaltstack,131,132 futex,202,98 set_robust_list,273,99 set_tid_address,218,96 rseq,334,293 arch_prctl,158,
clock_gettime,228,113 clock_getres,229,114 gettimeofday,96,169 time,201, nanosleep,35,101 clock_nanosleep,230,115
getrandom,318,278 getpid,39,172 getppid,110,173 gettid,186,178 getuid,102,174 geteuid,107,175 getgid,104,176
getegid,108,177 getresuid,118,148 getresgid,120,150 getgroups,115,158 getpgrp,111, getpgid,121,155 getsid,124,156
uname,63,160 sysinfo,99,179 sched_yield,24,124 sched_getaffinity,204,123 exit,60,93 exit_group,231,94 dup,32,23
dup2,33, dup3,292,24 pipe,22, pipe2,293,59 poll,7, ppoll,271,73 select,23, pselect6,270,72 mkdir,83, mkdirat,258,34
unlink,87, unlinkat,263,35 rmdir,84, rename,82, renameat,264,38 renameat2,316,276 ftruncate,77,46 fsync,74,82
umask,95,166 getrlimit,97,163 getrusage,98,165 times,100,153 setitimer,38,103 getitimer,36,102 alarm,37,
statfs,137,43 fstatfs,138,44 fadvise64,221,223 restart_syscall,219,128 execve,59,221
"""
_GUARDED = {"fcntl": (72, 25), "ioctl": (16, 29), "prlimit64": (302, 261), "clone": (56, 220), "clone3": (435, 435)}
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_FCNTL = (0, 1, 2, 3, 4, 1030)  # duplicate, get and set flags; not F_SETOWN, which sends signals
_IOCTL = (0x5401, 0x5450, 0x5451)  # is it a terminal, close on exec
_CLONE_THREAD = 0x10000

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06


def supported() -> bool:
    """Whether there is a table for this machine's architecture."""
    return platform.machine() in _ARCHITECTURES


def program(threads: bool) -> bytes:
    """The filter as BPF instructions (``struct sock_filter``), with or without the right to start threads."""
    if not supported():
        raise ConfigError(
            "sandbox.isolation", f"no system call table for {platform.machine()}; x86_64 or aarch64 needed"
        )
    audit, column = _ARCHITECTURES[platform.machine()]
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for entry in _ALLOWED.split():
        number = entry.split(",")[1 + column]
        if number:
            code += [(_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]

    def guard(name: str, *checks: tuple[int, int, int, int]) -> None:
        number = _GUARDED[name][column]
        code.extend([(_EQUAL, 0, len(checks), number), *checks])

    deny = (_RETURN, 0, 0, _ERRNO | errno.EACCES)
    for name, values in (("fcntl", _FCNTL), ("ioctl", _IOCTL)):
        one_of = [check for value in values for check in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
        guard(name, (_LOAD, 0, 0, 24), *one_of, deny)
    zero = [check for offset in (16, 32, 36) for check in ((_LOAD, 0, 0, offset), (_EQUAL, 1, 0, 0), deny)]
    guard("prlimit64", *zero, (_RETURN, 0, 0, _ALLOW))  # reading one's own limits
    if threads:
        guard("clone", (_LOAD, 0, 0, 16), (_BITS, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW), deny)
    guard("clone3", (_RETURN, 0, 0, _ERRNO | errno.ENOSYS))  # so that the C library falls back to clone
    code.append(deny)
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
