"""scenario.py MODE ADDRESS PORT: makes one connection in one way, and prints the number of the process that sends its first packet."""
import os
import socket
import sys
import time

mode, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
IPPROTO_MPTCP = 262
mapped = mode.startswith("mapped-")
mode = mode.removeprefix("mapped-")
if mapped:
    address = "::ffff:" + address
family = socket.AF_INET6 if ":" in address else socket.AF_INET
to = (address, port)


def say(pid):
    os.write(1, b"PID %d\n" % pid)


def stream(protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.setblocking(False)
    return s


def datagram():
    return socket.socket(family, socket.SOCK_DGRAM)


def connect(s):
    try:
        s.connect(to)
    except BlockingIOError:
        pass


def stay():
    sys.stdin.read()  # until the test is over
    os._exit(0)


def child(work):
    if os.fork() == 0:
        say(os.getpid())
        work()
    stay()


def wait():
    os.write(1, b"READY\n")
    sys.stdin.readline()


short = mode.startswith("short-")
mode = mode.removeprefix("short-")
end = (lambda: os._exit(0)) if short else stay
old = mode.startswith("old-")
mode = mode.removeprefix("old-")
hold = wait if old else (lambda: None)
if not mode.startswith("fork"):
    say(os.getpid())

if mode in ("tcp", "mptcp"):
    s = stream(IPPROTO_MPTCP if mode == "mptcp" else 0)
    hold()
    connect(s)
    end()
elif mode == "udpconn":
    s = datagram()
    s.connect(to)
    hold()
    s.send(b"x")
    end()
elif mode == "udpsend":
    s = datagram()
    hold()
    s.sendto(b"x", to)
    end()
elif mode == "forksend":
    s = datagram()
    child(lambda: (s.sendto(b"x", to), stay()))
elif mode == "forkconn":
    s = datagram()
    s.connect(to)
    child(lambda: (s.send(b"x"), stay()))
elif mode == "forktcp":
    s = stream()
    child(lambda: (connect(s), stay()))
elif mode == "exec-after":
    s = datagram()
    s.set_inheritable(True)
    s.connect(to)
    s.send(b"x")
    os.execv("/bin/sleep", ["sleep", "600"])
elif mode == "ping":
    s = socket.socket(family, socket.SOCK_DGRAM, 1 if family == socket.AF_INET else 58)
    s.sendto(bytes([8 if family == socket.AF_INET else 128]) + bytes(15), to)
    stay()
elif mode in ("srv-tcp", "srv-mptcp"):
    s = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if mode == "srv-mptcp" else 0)
    s.bind((address, port))
    s.listen()
    wait()
elif mode == "srv-udp":
    s = datagram()
    s.bind((address, port))
    wait()
else:
    sys.exit("unknown mode " + mode)
stay()
