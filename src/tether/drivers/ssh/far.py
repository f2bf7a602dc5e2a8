"""What runs on the other host: sent over a connection, not installed. One file, the standard library, Python 3.8 or later.

The *agent* lives as long as the connection: it reads requests on its standard input, a JSON object a line, and answers on its standard
output. For each command it forks a *shim*, which leaves the connection behind: a child subreaper that holds the whole tree, ends it when
its lease is over, and ends itself only when the kernel says that nobody is left (ECHILD). A folder for each command has its log, the shim's
socket, who shim and command are, and in the end the receipt.
"""

import ctypes
import errno
import gc
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
ROUND_PAUSE_S = 0.01
FIRST_PAUSE_S = 0.25
FORGET_S = 14 * 24 * 3600
MESSAGE = 1 << 17
VERSION = 1
SIGNALS = [
    each for each in range(1, signal.NSIG) if each not in (signal.SIGKILL, signal.SIGSTOP) and not 31 < each < 35
]
MOST_FDS = os.sysconf("SC_OPEN_MAX")
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl  # looked up here once, for all shims


def heed(*_):
    """A signal is heard by the wakeup descriptor."""


def now():
    """Seconds that also pass while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


BOOT = boot_id()
UMASK = os.umask(0o077)


def home():
    """The folder for everything here: private, in the home directory, or in /tmp where that can't be written."""
    for base in (os.path.join(os.path.expanduser("~"), ".local/state"), "/tmp"):
        folder = os.path.join(base, "tether-far-%d" % os.getuid())
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            info = os.lstat(folder)
            if (
                stat.S_ISDIR(info.st_mode)
                and info.st_uid == os.getuid()
                and not info.st_mode & 0o077
                and os.access(folder, os.W_OK)
            ):
                return folder
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
    raise OSError(errno.EACCES, "no folder can be written", base)


# -- the process table ---------------------------------------------------------------------------------------------------


def read_stat(pid):
    """State, parent, cpu ticks, start time and resident pages of a process; None if there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    # With its first thread ended it is shown as a zombie, and lives in the others.
    state = "S" if fields[0] == b"Z" and int(fields[17]) > 1 else fields[0].decode()
    return state, int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]), int(fields[21])


def is_alive(pid, start):
    found = read_stat(pid)
    return found is not None and found[3] == start and found[0] not in ("Z", "X")


def children(pid):
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                found += [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        pass
    return found


def has_children_files():
    return os.path.exists("/proc/%d/task/%d/children" % (os.getpid(), os.getpid()))


def descendants(pid):
    """Every live process below one, whatever sessions they are in."""
    if has_children_files():
        found, todo = [], [pid]
        while todo:
            below = children(todo.pop())
            found += below
            todo += below
    else:
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                known = read_stat(int(name))
                if known:
                    parents.setdefault(known[1], []).append(int(name))
        found, todo = [], [pid]
        while todo:
            below = parents.get(todo.pop(), [])
            found += below
            todo += below
    return [each for each in found if (read_stat(each) or "Z")[0] not in ("Z", "X")]


def carriers(tag):
    """Processes with the tag in their environment: all that is left to go by when a shim was killed."""
    wanted = ("TETHER_RESOURCE=" + tag).encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open("/proc/%s/environ" % name, "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    return [pid for pid in found if (read_stat(pid) or "Z")[0] not in ("Z", "X")]


def listens(port, pids):
    """What is missing for one of these processes to listen on a port; empty if nothing is."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            with open("/proc/net/" + table) as file:
                for line in file.read().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        inodes.add("socket:[%s]" % fields[9])
        except OSError:
            continue
    if not inodes:
        return "nothing listens on port %d there" % port
    for pid in pids:
        try:
            for fd in os.listdir("/proc/%d/fd" % pid):
                try:
                    if os.readlink("/proc/%d/fd/%s" % (pid, fd)) in inodes:
                        return ""
                except OSError:
                    continue
        except OSError:
            continue
    return "port %d there is held by a process outside its tree" % port


def write_whole(path, value):
    """Write a file that is whole whenever it is there. After a reboot nothing lives that it could tell of, so it needs no sync."""
    with open(path + ".new", "w") as file:
        file.write(json.dumps(value))
    os.rename(path + ".new", path)


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


# -- the shim ------------------------------------------------------------------------------------------------------------


class Shim:
    """Holds one tree. Made in the agent, where nothing is copied; runs in a process of its own, in the folder of its command."""

    def __init__(self, request, first, folder):
        self.request = request
        self.connections = [first]
        self.fence = request["fence"]
        self.main = 0
        self.status = None
        self.why = ""
        self.polite_until = None
        self.next_signal = 0.0
        self.pause = FIRST_PAUSE_S
        self.forced = False
        self.env = {name: value for name, value in os.environ.items() if name != "TETHER_RESOURCE"}
        for name, value in request["env"].items():
            self.env.pop(name, None) if value is None else self.env.update({name: value})
        self.env["TETHER_RESOURCE"] = request["tag"]
        self.folder = os.open(folder, os.O_RDONLY)
        self.log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # A full disk is said before anything runs. Some file systems can't reserve room; there it is seen later.
            os.posix_fallocate(self.log, 0, 4096)
            os.ftruncate(self.log, 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                os.close(self.log)
                os.close(self.folder)
                raise
        self.wake, self.waker = os.pipe()
        os.set_blocking(self.waker, False)
        self.null = os.open(os.devnull, os.O_RDWR)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("/proc/self/fd/%d/s" % self.folder)
        self.listener.listen(8)
        self.used = sorted(
            [self.wake, self.waker, self.folder, self.log, self.null, self.listener.fileno(), first.fileno()]
        )

    def release(self):
        """In the agent: close its copies."""
        for fd in (self.wake, self.waker, self.folder, self.log, self.null):
            os.close(fd)
        self.listener.close()
        self.connections[0].close()

    def become(self):
        """In the forked child: leave the agent's session and connection behind, and hold the tree."""
        try:
            os.setsid()
            os.fchdir(self.folder)
            for fd in (0, 1, 2):
                os.dup2(self.null, fd)
            below = 2
            for fd in self.used:
                os.closerange(below + 1, fd)
                below = fd
            os.closerange(below + 1, MOST_FDS)
            try:
                self.run()
            except OSError as error:
                self.tell({"refused": [error.errno, error.strerror, error.filename or ""]})
        finally:
            os._exit(0)

    def run(self):
        signal.set_wakeup_fd(self.waker)
        if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "this kernel has no child subreapers")
        self.lease_over = now() + self.request["lease"]
        self.main = self.execute()
        self.tell({"spawned": [os.getpid(), self.main]})
        while not self.reap():
            self.act()
            self.wait()
        self.finish()

    def execute(self):
        """Run the command in a session of its own; an error of its execution is raised here, with what it is about."""
        request = self.request
        os.umask(UMASK if request["umask"] is None else request["umask"])
        try:
            os.chdir(request["cwd"] or os.path.expanduser("~"))
            return self.spawn(request["argv"], self.env, self.log)
        finally:
            os.umask(0o077)
            os.fchdir(self.folder)
            os.close(self.log)

    @staticmethod
    def spawn(argv, env, log):
        """posix_spawn(3) rather than fork: it reports the error of the exec itself, and copies no page of this process."""
        program, refused = argv[0], OSError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        folders = [""] if "/" in program else env.get("PATH", os.defpath).split(":")
        signals = [
            each
            for each in range(1, signal.NSIG)
            if each not in (signal.SIGKILL, signal.SIGSTOP) and not 31 < each < 35
        ]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        for folder in folders:
            try:
                return os.posix_spawn(
                    os.path.join(folder, program),
                    argv,
                    env,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=SIGNALS,
                )
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    refused = OSError(error.errno, os.strerror(error.errno), argv[0])
                    if error.errno != errno.EACCES:
                        break
        raise refused

    def reap(self):
        """Collect who has ended; True when the kernel says that nobody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return False
            if pid == self.main:
                self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                self.tell({"exited": self.status, "ending": bool(self.why)})
                try:
                    write_whole("exited", self.status)
                except OSError:
                    # The receipt has it too, if there is room by then.
                    continue

    def act(self):
        """Do what is due."""
        time_now = now()
        if not self.why and time_now >= self.lease_over:
            self.end_by_lease(time_now)
        if self.forced:
            for pid in descendants(os.getpid()):
                self.signal(pid, signal.SIGKILL)
        elif self.polite_until is not None:
            if time_now >= self.polite_until:
                self.forced = True
            elif time_now >= self.next_signal:
                self.ask()
                self.next_signal, self.pause = time_now + self.pause, self.pause * 2

    def end_by_lease(self, time_now):
        kept = self.request["on_death"] == "keep"
        if kept and time_now < self.lease_over + self.request["keep_for"]:
            return
        self.end(
            "kept as long as was said" if kept else "its lease was over",
            self.request["grace"] if self.request["on_death"] != "kill" else 0,
        )

    def end(self, why, grace):
        if not self.why:
            self.why = why
        until = now() + grace
        if self.polite_until is None or until < self.polite_until:
            self.polite_until = until
        if grace <= 0:
            self.forced = True

    def ask(self):
        """Signal politely: the command's group, what has left it once the command has ended."""
        signum = self.request["stop_signal"]
        if self.status is not None:
            for pid in descendants(os.getpid()):
                self.signal(pid, signum)
        elif self.request["stop_to"] == "main":
            self.signal(self.main, signum)
        else:
            for each in (signum, signal.SIGCONT):
                try:
                    os.killpg(os.getpgid(self.main), each)
                except OSError:
                    self.signal(self.main, each)

    @staticmethod
    def signal(pid, signum):
        # A descendant's pid can't be recycled before this process, or one below it, has waited for it.
        try:
            os.kill(pid, signum)
        except OSError:
            pass

    def timeout_s(self):
        if self.forced:
            return ROUND_PAUSE_S
        if self.polite_until is not None:
            return max(0.0, min(self.polite_until, self.next_signal) - now())
        over = self.lease_over
        if now() >= over:
            over += self.request["keep_for"]
        return max(0.01, over - now())

    def wait(self):
        ready, _, _ = select.select([self.wake, self.listener, *self.connections], [], [], self.timeout_s())
        if self.wake in ready:
            os.read(self.wake, 512)
        if self.listener in ready:
            self.connections.append(self.listener.accept()[0])
        for connection in [each for each in self.connections if each in ready]:
            try:
                data = connection.recv(MESSAGE)
            except OSError:
                data = b""
            if data:
                self.heed(json.loads(data.decode()))
            else:
                connection.close()
                self.connections.remove(connection)

    def heed(self, message):
        if message.get("fence", self.fence) < self.fence:
            return
        self.fence = max(self.fence, message.get("fence", self.fence))
        if "lease" in message:
            self.lease_over = now() + message["lease"]
        elif "stop" in message:
            self.end(message["why"], message["stop"])

    def tell(self, message):
        data = json.dumps(dict(message, tag=self.request["tag"])).encode()
        for connection in list(self.connections):
            try:
                connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                # It reads the receipt when it is back.
                continue

    def finish(self):
        said = "the shim there, pid %d, ended it %s: ECHILD" % (os.getpid(), "by force" if self.forced else "in order")
        receipt = {"status": self.status, "why": self.why or "ended by itself", "said": said}
        try:
            write_whole("ended", receipt)
        except OSError as error:
            receipt["said"] += "; the receipt could not be written: %s" % error
        try:
            os.unlink("s")
        except OSError:
            pass
        self.tell({"ended": receipt})


# -- the agent -----------------------------------------------------------------------------------------------------------


class Agent:
    """Serves one connection."""

    def __init__(self):
        self.home = home()
        self.shims = {}
        self.waiting = {}
        self.forget_old()

    def forget_old(self):
        for name in os.listdir(self.home):
            ended = os.path.join(self.home, name, "ended")
            try:
                if os.stat(ended).st_mtime < time.time() - FORGET_S:
                    shutil.rmtree(os.path.join(self.home, name))
            except OSError:
                continue

    def run(self):
        say(
            {
                "hello": VERSION,
                "boot": boot_id(),
                "uid": os.getuid(),
                "python": sys.version.split()[0],
                "home": self.home,
            }
        )
        rest = b""
        while True:
            ready, _, _ = select.select([0, *self.shims.values()], [], [])
            self.reap()
            for tag, line in [(tag, line) for tag, line in self.shims.items() if line in ready]:
                self.hear(tag, line)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.answer(json.loads(line.decode()))

    @staticmethod
    def reap():
        """Collect shims that have ended; those that live on when this process ends are init's."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def answer(self, request):
        try:
            value = getattr(self, "do_" + request["do"])(request)
        except OSError as error:
            say(
                {
                    "id": request["id"],
                    "errno": error.errno,
                    "said": error.strerror,
                    "filename": str(error.filename or ""),
                }
            )
            return
        if value is not None:
            say({"id": request["id"], "value": value})

    def folder(self, tag):
        if not tag.isalnum():
            raise OSError(errno.EINVAL, "no tag", tag)
        return os.path.join(self.home, tag)

    def hear(self, tag, line):
        try:
            data = line.recv(MESSAGE)
        except OSError:
            data = b""
        if not data:
            line.close()
            if self.shims.get(tag) is line:
                del self.shims[tag]
            waiting = self.waiting.pop(tag, None)
            if waiting is not None:
                say({"id": waiting, "errno": errno.ECHILD, "said": "its shim there was killed", "filename": ""})
            elif read_json(os.path.join(self.folder(tag), "ended")) is None and os.path.exists(self.folder(tag)):
                say({"event": "lost shim", "tag": tag})
            return
        message = json.loads(data.decode())
        if "spawned" in message:
            say({"id": self.waiting.pop(tag), "value": self.introduce(tag, *message["spawned"])})
        elif "refused" in message:
            number, said, filename = message["refused"]
            shutil.rmtree(self.folder(tag), ignore_errors=True)
            say({"id": self.waiting.pop(tag), "errno": number, "said": said, "filename": filename})
        else:
            message["event"] = "exited" if "exited" in message else "ended"
            say(message)

    def introduce(self, tag, shim, main):
        """Put on record who shim and command are. Here, since every page that a shim touches is copied for it."""
        known = {
            "shim": [shim, (read_stat(shim) or [0] * 4)[3]],
            "main": [main, (read_stat(main) or [0] * 4)[3]],
            "boot": BOOT,
        }
        try:
            with open(os.path.join(self.folder(tag), "who"), "wb", 0) as file:
                file.write(json.dumps(known).encode())
        except OSError:
            # The shim is reached by its socket; only what it leaves if it is killed is harder to find.
            pass
        return known

    def do_spawn(self, request):
        folder = self.folder(request["tag"])
        os.mkdir(folder, 0o700)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            shim = Shim(request, theirs, folder)
            pid = os.fork()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if pid == 0:
            shim.become()
        shim.release()
        self.shims[request["tag"]] = ours
        self.waiting[request["tag"]] = request["id"]

    def line_to(self, tag):
        """The line to a shim, made anew if it was left behind by an earlier agent; None if there is no shim."""
        if tag not in self.shims:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            folder = os.open(self.folder(tag), os.O_RDONLY)
            try:
                line.connect("/proc/self/fd/%d/s" % folder)
            except OSError:
                line.close()
                return None
            finally:
                os.close(folder)
            self.shims[tag] = line
        return self.shims[tag]

    def send(self, tag, message):
        line = self.line_to(tag) if os.path.isdir(self.folder(tag)) else None
        if line is None:
            return False
        try:
            line.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
            return True
        except OSError:
            return False

    def do_renew(self, request):
        return {
            tag: self.send(tag, {"lease": lease, "fence": fence}) for tag, (lease, fence) in request["tags"].items()
        }

    def do_stop(self, request):
        """Ask for the end; answered at once, the end is an event. Of a tree whose shim was killed, what can be found is killed here."""
        tag = request["tag"]
        if self.send(tag, {"stop": request["grace"], "why": request["why"]}):
            return "asked"
        if not os.path.isdir(self.folder(tag)):
            return "gone"
        if read_json(os.path.join(self.folder(tag), "ended")) is None:
            self.end_rest(tag)
        return "gone"

    def end_rest(self, tag):
        who = read_json(os.path.join(self.folder(tag), "who"))
        for _ in range(100):
            left = carriers(tag)
            if who and who["boot"] == BOOT:
                for pid, start in (who["main"], who["shim"]):
                    if is_alive(pid, start):
                        left += [pid, *descendants(pid)]
            if not left:
                break
            for pid in left:
                Shim.signal(pid, signal.SIGKILL)
            time.sleep(ROUND_PAUSE_S)
        write_whole(
            os.path.join(self.folder(tag), "ended"),
            {"status": None, "why": "its shim there was killed", "said": "what carried its tag was killed"},
        )

    def do_look(self, request):
        """What is known of a tag: None if nothing is, else who, whether its shim lives, its pids, cpu and memory, and the receipt."""
        folder = self.folder(request["tag"])
        if not os.path.isdir(folder):
            return {"known": False}
        who, ended = read_json(os.path.join(folder, "who")), read_json(os.path.join(folder, "ended"))
        alive = bool(who) and who["boot"] == BOOT and is_alive(*who["shim"]) and ended is None
        pids = descendants(who["shim"][0]) if alive else ([] if ended else carriers(request["tag"]))
        stats = [each for each in map(read_stat, pids) if each]
        return {
            "known": True,
            "who": who,
            "alive": alive,
            "pids": pids,
            "cpu_s": sum(each[2] for each in stats) / os.sysconf("SC_CLK_TCK"),
            "memory": sum(each[4] for each in stats) * os.sysconf("SC_PAGE_SIZE"),
            "exited": read_json(os.path.join(folder, "exited")),
            "ended": ended,
        }

    def do_log(self, request):
        """A piece of the log: from an offset, or the last bytes; as latin-1, which is every byte."""
        try:
            with open(os.path.join(self.folder(request["tag"]), "log"), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                offset = request["offset"] if request["offset"] >= 0 else max(0, size + request["offset"])
                file.seek(offset)
                data = file.read(request["size"])
        except FileNotFoundError:
            return {"offset": 0, "data": "", "size": 0}
        return {"offset": offset, "data": data.decode("latin-1"), "size": size}

    def do_clear(self, request):
        """Remove what is kept of a command that has ended."""
        folder = self.folder(request["tag"])
        if os.path.isdir(folder):
            if read_json(os.path.join(folder, "ended")) is None and self.do_look(request)["pids"]:
                raise OSError(errno.EBUSY, "it has not ended", folder)
            shutil.rmtree(folder)
        return True

    def do_port(self, request):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    def do_listens(self, request):
        return listens(request["port"], self.do_look(request).get("pids", []))

    def do_diagnose(self, request):
        free = shutil.disk_usage(self.home)
        return {
            "children": has_children_files(),
            "free": free.free,
            "running": [name for name in os.listdir(self.home) if os.path.exists(os.path.join(self.home, name, "s"))],
        }


def say(message):
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    # Ends with the connection, however that ends; what it forked does not, and finds all this set.
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, heed)
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        agent = Agent()
    except OSError as error:
        say({"errno": error.errno, "said": error.strerror, "filename": str(error.filename or "")})
        sys.exit(1)
    agent.run()
