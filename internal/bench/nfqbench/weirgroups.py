#!/usr/bin/env python3
"""What docs/benchmarks.md shows about pkg/nfq, in the harness that scripts/bench-nfq.sh put beside this file.

The cases of a group take turns, and each group has its references in it: a shared machine drifts, ratios stay.
Run inside the first namespace: weirgroups.py [-r REPS] [GROUP...]
"""
import argparse, contextlib, json, os, statistics, subprocess, time

import bench as b
import groups as g

WEIR = f"{b.BIN}/nfqbench"
C = f"{b.BIN}/cq -m multi -N 32"
SECS = g.SECS


def only(cases):
    """The cases whose name contains one of the words in $NFQBENCH_ONLY, which commas separate, or all."""
    words = os.environ.get("NFQBENCH_ONLY", "").split(",")
    return {k: v for k, v in cases.items() if any(w in k for w in words)}


def compare(name, cases, fn, keys, reps, ratios):
    """The harness' table, and below it how each case relates to the first one: the median over the repetitions of the ratio
    within a repetition, in which both met the same noise."""
    res = b.table(name, only(cases), fn, keys, reps)
    first = next(iter(res.values()), [])
    for k, rs in list(res.items())[1:]:
        out = []
        for key in ratios:
            v = sorted(r[key] / f[key] for r, f in zip(rs, first) if f.get(key))
            if v:
                out.append(f"{key} x{statistics.median(v):.3f} ({v[0]:.2f} to {v[-1]:.2f})")
        print(f"ratio {k}: {', '.join(out)}", flush=True)


def known(reps):
    """Packets of one connection that is decided, every packet queued and marked."""
    b.udp_rule()
    cases = {
        "C multi": C + " -k 1710",
        "weir, whole pipeline, 1,000 rules": f"{WEIR} -handler firewall",
        "weir, reader alone": f"{WEIR} -handler lookup",
        "weir, every packet handed over": f"{WEIR} -handler handle",
        "go-nfqueue v2": f"{b.BIN}/gofl -k 1710",
        "weir gonfqueue": f"{WEIR} -source gonfqueue -handler lookup",
        **g.extra(),
    }
    compare("known connection, window ~130 packets, sender cpu0, consumer cpu1",
            {n: dict(cmd=c, sender="-S 50000 -b 16", secs=SECS) for n, c in cases.items()},
            b.pps, ["pps", "cpu_per_m", "ccpu", "scpu", "lost", "qdrop", "udrop", "allocs", "bytes"], reps, ["pps", "cpu_per_m"])


def bulk(reps):
    """One TCP connection as fast as it goes."""
    compare("bulk TCP, every packet out is queued, nothing pinned", {
        "no firewall": dict(cmd="", rs=[]),
        "C": dict(cmd=C, rs=g.EVERY),
        "weir, whole pipeline": dict(cmd=WEIR, rs=g.EVERY),
        "go-nfqueue v2": dict(cmd=f"{b.BIN}/gofl", rs=g.EVERY),
    }, g.iperf, ["gbps", "ccpu", "queued", "retr"], reps, ["gbps"])
    compare("bulk TCP, the first packet is queued, nothing pinned", {
        "conntrack and mark rules only": dict(cmd="", rs=[g.PM[0], g.PM[2]]),
        "C": dict(cmd=C + " -k 1710", rs=g.PMIN),
        "weir, whole pipeline, same rules": dict(cmd=f"{WEIR} -permanent", rs=g.PMIN),
        "weir, whole pipeline, its own ruleset": dict(cmd=f"{WEIR} -permanent -ruleset", rs=[]),
    }, g.iperf, ["gbps", "ccpu", "queued", "retr"], reps, ["gbps"])


CONNECTING = {
    "C multi": C + " -k 1710",
    "weir, whole pipeline with process, 1,000 rules": f"{WEIR} -permanent",
    "weir, whole pipeline with process by eBPF": f"{WEIR} -permanent -ebpf",
    "weir, whole pipeline with process, history at 2,000/s": f"{WEIR} -permanent -history 2000",
    "weir, whole pipeline without process": f"{WEIR} -permanent -processes=false",
    "weir, handed over": f"{WEIR} -permanent -handler handle",
    "weir, reader alone": f"{WEIR} -permanent -handler lookup",
    "go-nfqueue v2": f"{b.BIN}/gofl -k 1710",
    **g.extra(),
}


def connects(reps):
    """New TCP connections one at a time: the SYN is queued, the rest passes by its mark."""
    b.rules(*g.PM)
    for pin, s, c in (("client cpu0, consumer cpu1", "0", "1"), ("nothing pinned", "", "")):
        compare(f"TCP connections, one at a time, {pin}",
                {k: dict(cmd=v, ccpu=c, scpu=s, n=int(os.environ.get("NFQBENCH_CONNS", "15000"))) for k, v in CONNECTING.items()},
                b.tcpconn, ["cps", "cpu_per_m", "fail", "queued"], reps, ["cps", "cpu_per_m"])
    b.rules()


def connect(cmd, ccpu="1", scpu="0", rs=(), n=4000):
    """How long connect(2) takes, with a pause between connections, so that everybody has gone to sleep."""
    b.rules(*rs)
    c = b.Consumer(cmd, ccpu) if cmd else None
    srv = subprocess.Popen(["ip", "netns", "exec", b.NSB, f"{b.BIN}/tcpconn", "-s"] + (["-c", scpu] if scpu else []))
    time.sleep(0.2)
    try:
        out = subprocess.run([WEIR, "-connect", str(n)] + (["-cpu", scpu] if scpu else []), capture_output=True, text=True, timeout=90).stdout
    finally:
        srv.terminate()
        srv.wait()
        if c:
            c.stop()
        b.rules()
    return json.loads(out)


def latency(reps):
    """What a first packet waits for: time to connect, whose difference to "no firewall" is what the queue adds."""
    for pin, s, c in (("client cpu0, consumer cpu1", "0", "1"), ("nothing pinned", "", "")):
        cases = {"no firewall": dict(cmd="", ccpu=c, scpu=s)}
        cases.update({k: dict(cmd=v, ccpu=c, scpu=s, rs=g.PM) for k, v in CONNECTING.items()})
        compare(f"time to connect, us, {pin}", cases, connect, ["p50", "p90", "p99", "mean", "fail"], reps, ["p50", "p99"])


GROUPS = {f.__name__: f for f in (known, bulk, connects, latency)}

if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("-r", type=int, default=3, help="repetitions")
    ap.add_argument("group", nargs="*", default=list(GROUPS), choices=[*GROUPS, []])
    a = ap.parse_args()
    nice = os.environ.get("NFQBENCH_NICE", "-20")
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(OSError):
        open("/proc/self/autogroup", "w").write(nice)
    os.nice(int(nice))
    for name in a.group:
        GROUPS[name](a.r)
