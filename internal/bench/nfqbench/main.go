// Command nfqbench reads an NFQUEUE as the harness of scripts/bench-nfq.sh wants it: it says "ready" on standard error when the
// queue is bound, and prints what it counted as one line of JSON when it gets SIGTERM. With -connect it is the other end: a
// client that measures how long connecting takes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"syscall"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/nfq/gonfqueue"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// options are the flags.
type options struct {
	source    string
	handler   string
	ruleset   bool
	permanent bool
	processes bool
	ebpf      bool
	rules     int
	queue     int
	buffer    int
	profile   string
	history   int

	connect  int
	to       string
	ports    int
	cpu      int
	pauseFor int
}

func main() {
	var o options
	flag.StringVar(&o.source, "source", "nfq", "nfq or gonfqueue")
	flag.StringVar(&o.handler, "handler", "firewall", "firewall: the whole pipeline; lookup: accept by Lookup; handle: accept by Handle")
	flag.BoolVar(&o.ruleset, "ruleset", false, "load our own ruleset instead of reading -q that the harness feeds")
	flag.BoolVar(&o.permanent, "permanent", false, "let the kernel decide the rest of a connection")
	flag.BoolVar(&o.processes, "processes", true, "find the process of each connection")
	flag.BoolVar(&o.ebpf, "ebpf", false, "find processes by eBPF first")
	flag.IntVar(&o.rules, "rules", 1000, "number of rules; none matches")
	flag.IntVar(&o.queue, "q", 0, "queue")
	flag.IntVar(&o.buffer, "B", 0, "receive buffer in bytes; 0 is the default")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile")
	flag.IntVar(&o.history, "history", 0, "keep a history on disk, and write so many more connections a second into it")
	flag.IntVar(&o.connect, "connect", 0, "be a client that makes this many connections, one at a time")
	flag.StringVar(&o.to, "to", "10.77.0.2", "address to connect to")
	flag.IntVar(&o.ports, "ports", 8, "ports to connect to in turn, from 8000 on")
	flag.IntVar(&o.pauseFor, "pause", 200, "microseconds between connections")
	flag.IntVar(&o.cpu, "cpu", -1, "run the client on this CPU")
	flag.Parse()
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "nfqbench:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	if o.connect > 0 {
		return client(o)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	source, err := openSource(o)
	if err != nil {
		return err
	}
	handler, end, err := openHandler(ctx, o, source)
	if err != nil {
		return err
	}
	c := &counter{Handler: handler}
	var before, after runtime.MemStats
	err = source.Run(ctx, c, func() {
		runtime.ReadMemStats(&before)
		fmt.Fprintln(os.Stderr, "ready")
	})
	runtime.ReadMemStats(&after)
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	return c.report(source, &before, &after)
}

// openSource returns the backend: on a queue that rules of the harness feed, or on our own.
func openSource(o *options) (intercept.Source, error) {
	if o.source == "gonfqueue" {
		return gonfqueue.New(gonfqueue.Config{
			Queue: nfqueue.Config{NfQueue: uint16(o.queue), MaxQueueLen: 65535}, ReceiveBuffer: o.buffer,
		})
	}
	cfg := nfq.Config{ReceiveBuffer: o.buffer}
	if o.ruleset {
		dir, err := os.MkdirTemp("", "nfqbench")
		if err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		cfg.Host = nfq.HostConfig{OnExit: nfq.ExitOpen, StateFile: dir + "/state.json"}
	} else {
		cfg.SkipRuleset, cfg.ReadQueues, cfg.Style = true, []uint16{uint16(o.queue)}, nfq.StylePlain
	}
	return nfq.New(cfg)
}

// counter counts on the way to the handler. Its cost is part of what is measured.
type counter struct {
	intercept.Handler
	_       [64]byte // a cache line of its own
	packets atomic.Uint64
}

func (c *counter) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	c.packets.Add(1)
	return c.Handler.Lookup(i)
}

// result is what the harness reads.
type result struct {
	Packets         uint64  `json:"pkts"`
	AllocsPerPacket float64 `json:"allocs_per_pkt"`
	BytesPerPacket  float64 `json:"bytes_per_pkt"`
	Stats           any     `json:"stats,omitempty"`
}

func (c *counter) report(source intercept.Source, before, after *runtime.MemStats) error {
	n := c.packets.Load()
	r := result{
		Packets:         n,
		AllocsPerPacket: float64(after.Mallocs-before.Mallocs) / float64(max(n, 1)),
		BytesPerPacket:  float64(after.TotalAlloc-before.TotalAlloc) / float64(max(n, 1)),
	}
	if s, ok := source.(*nfq.Source); ok {
		r.Stats = s.Stats()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
