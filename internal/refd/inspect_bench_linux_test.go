package refd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/rules"
)

// inspectVar tells a test binary that it is the process that is measured.
const inspectVar = "WEIR_BENCH_INSPECT"

// How packets of one connection get their verdict.
const (
	byMark      = iota // the kernel remembers the verdict of the first
	byQueue            // each is queued, and its connection is decided
	byInspector        // each is queued and inspected
	ways
)

const (
	inspectRounds = 9
	inspectFor    = 600 * time.Millisecond
	// inspectWindow is how much may wait in the queue: a sender that has to wait is what a flood does not show.
	inspectWindow = 64 << 10
)

// BenchmarkInspectedPackets is what a packet to port 53 costs in the disabled state, through the kernel's queue and the whole pipeline,
// beside packets of a decided connection: those that are queued, and those that the kernel decides. They take turns in one process, in a
// network namespace, and the ratios are the medians of those within a round. What is measured is the processor's time of sender and
// firewall, the kernel's in it: on a machine that does other things, too, how long it takes says little.
func BenchmarkInspectedPackets(b *testing.B) {
	if os.Getenv(inspectVar) != "" {
		testnet.RequireOwnNamespace(b)
		benchmarkInspected(b)
		return
	}
	testutil.RequireIPTables(b, testutil.VariantNFT)
	testutil.RequireNFQUEUE(b)
	host, sink := testnet.New(b).Pair()
	// they end before a socket or an ICMP error
	sink.Run(b, "iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "53", "-j", "DROP")
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	cmd := host.Command(ctx, os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkInspectedPackets$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), inspectVar+"=1")
	out, err := cmd.CombinedOutput()
	figures := regexp.MustCompile(`([0-9.]+) ((?:us|x)/\S+)`).FindAllStringSubmatch(string(out), -1)
	if err != nil || len(figures) == 0 {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, f := range figures {
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(v, f[2])
	}
	b.ReportMetric(0, "ns/op") // of starting a process: of no interest
}

func benchmarkInspected(b *testing.B) {
	names := [ways]string{"mark", "queue", "inspector"}
	var took [ways][]float64
	for range inspectRounds {
		for way := range ways {
			took[way] = append(took[way], inspectedPacket(b, way))
		}
	}
	median := func(list []float64) float64 {
		list = slices.Clone(list)
		slices.Sort(list)
		return list[len(list)/2]
	}
	for way, name := range names {
		b.ReportMetric(median(took[way]), "us/"+name)
		if way == byMark {
			continue
		}
		ratios := make([]float64, inspectRounds)
		for i := range ratios {
			ratios[i] = took[way][i] / took[way-1][i]
		}
		b.ReportMetric(median(ratios), "x/"+name+"-to-"+names[way-1])
	}
	b.ReportMetric(0, "ns/op")
}

// inspectedPacket runs a firewall on our own ruleset, sends queries for a while as fast as they get their verdicts, and returns how many
// microseconds of a processor each took.
func inspectedPacket(b *testing.B, way int) float64 {
	b.Helper()
	source, f := inspectingFirewall(b, way)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	ended := make(chan error, 2)
	ready := make(chan struct{})
	go func() { ended <- f.Run(ctx, func() { close(ready) }) }()
	<-ready
	ready = make(chan struct{})
	go func() { ended <- source.Run(ctx, f, func() { close(ready) }) }()
	<-ready
	us, sent := sendQueries(b)
	seen := source.Stats().Packets
	cancel()
	if err := errors.Join(<-ended, <-ended); err != nil {
		b.Fatal(err)
	}
	if way == byMark && seen > sent/10 || way != byMark && seen < sent*9/10 {
		b.Fatalf("way %d: %d of %d packets were seen", way, seen, sent)
	}
	return us
}

func inspectingFirewall(b *testing.B, way int) (*nfq.Source, *firewall.Firewall) {
	b.Helper()
	source, err := nfq.New(nfq.Config{Host: nfq.HostConfig{
		OnExit: nfq.ExitOpen, StateFile: filepath.Join(b.TempDir(), "state.json"), Variant: nfq.VariantNFT,
	}})
	if err != nil {
		b.Fatal(err)
	}
	set, err := rules.Compile(rules.Config{Default: rules.Defaults{In: rules.Allow, Out: rules.Allow}})
	if err != nil {
		b.Fatal(err)
	}
	live := &rules.Live{}
	live.Swap(set)
	cfg := firewall.Config{
		Store: connstore.NewLive(connstore.Config{}), Processes: onlyCurl{}, OwnPID: -1, Source: source,
		Deciders: []firewall.Decider{&firewall.RuleDecider{Rules: live}}, Permanent: firewall.NeverPermanent,
	}
	if way == byMark {
		cfg.Permanent = firewall.PermanentWhereSafe
	}
	if way == byInspector {
		guard, err := dnsguard.New(dnsguard.Config{
			Disabled: func() bool { return true }, IsResolver: func(*conn.Process) bool { return false },
		})
		if err != nil {
			b.Fatal(err)
		}
		cfg.Inspector = guard
		cfg.Deciders = append([]firewall.Decider{guard}, cfg.Deciders...)
	}
	f, err := firewall.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return source, f
}

// sendQueries sends the same query from one socket, whose buffer bounds what waits.
func sendQueries(b *testing.B) (us float64, sent uint64) {
	b.Helper()
	query, err := new(dns.Msg).SetQuestion("www.example.test.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	var dialer net.Dialer
	c, err := dialer.DialContext(b.Context(), "udp4", testnet.ServerV4+":53")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.UDPConn).SetWriteBuffer(inspectWindow); err != nil {
		b.Fatal(err)
	}
	send := func(d time.Duration) (n uint64) {
		for end := time.Now().Add(d); ; {
			for range 64 {
				if _, err := c.Write(query); err != nil && !errors.Is(err, syscall.ENOBUFS) {
					b.Fatal(fmt.Errorf("after %d queries: %w", n, err))
				}
				n++
			}
			if time.Now().After(end) {
				return n
			}
		}
	}
	sent = send(inspectFor / 4) // the first one is decided, and what it takes is warm
	before := processorTime(b)
	n := send(inspectFor)
	return float64((processorTime(b) - before).Nanoseconds()) / 1000 / float64(n), sent + n
}

// processorTime is what this process has used of all processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
