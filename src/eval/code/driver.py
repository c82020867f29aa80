# Runs the program on standard input in a process of its own, and says `passed` or `failed`, and `apart` where the
# system gave it a network of its own, with nothing in it. Arguments: seconds, bytes of memory, bytes of a file.
import os, resource, select, shutil, signal, subprocess, sys, time

SECONDS, MEMORY, SIZE = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
PROCESSES = 32
# what lm-evaluation-harness's code_eval takes away from programs, after openai/human-eval
TAKEN = {
    "os": "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace "
          "unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir",
    "shutil": "rmtree move chown",
    "subprocess": "Popen",
    "builtins": "exit quit",
}
MISSING = "ipdb joblib resource psutil tkinter"


def apart():
    if not sys.platform.startswith("linux"):
        return False
    import ctypes
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    user, net, pid, ipc = 0x10000000, 0x40000000, 0x20000000, 0x08000000
    own, group = os.getuid(), os.getgid()
    for flags in (user | net | pid | ipc, user | net, net | pid | ipc, net):
        if unshare(flags) == 0:
            if flags & user:
                for name, text in (("setgroups", "deny"), ("uid_map", f"{own} {own} 1"), ("gid_map", f"{group} {group} 1")):
                    try:
                        with open(f"/proc/self/{name}", "w") as file:
                            file.write(text)
                    except OSError:
                        pass
            return True
    return False


def limit(what, most):
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def run(program, token, told):
    limit(resource.RLIMIT_CPU, int(SECONDS) + 1)
    limit(resource.RLIMIT_AS, MEMORY)
    limit(resource.RLIMIT_FSIZE, SIZE)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NPROC, PROCESSES)
    write, leave = os.write, os._exit
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    for name, functions in TAKEN.items():
        module = __import__(name)
        for function in functions.split():
            if hasattr(module, function):
                setattr(module, function, None)
    for name in MISSING.split():
        sys.modules[name] = None
    try:
        exec(program, {})
    except BaseException:
        leave(1)
    write(told, token)
    leave(0)


def main():
    program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    cut, token = apart(), os.urandom(16)
    hears, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hears)
        run(program, token, told)
    os.close(told)
    deadline, said = time.monotonic() + SECONDS, b""
    while len(said) < len(token):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([hears], [], [], left)[0]:
            break
        part = os.read(hears, len(token))
        if not part:
            break
        said += part
    try:
        os.kill(child, signal.SIGKILL)
    except OSError:
        pass
    os.waitpid(child, 0)
    print("passed" if said == token else "failed", "apart" if cut else "beside", flush=True)
    # all that the program started, and this process
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)


main()
