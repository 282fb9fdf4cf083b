package nfq

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

// activateVar tells a test binary that it is the process that is measured, and what.
const activateVar = "WEIR_NFQ_ACTIVATE"

// BenchmarkConntrack is what the kernel's memory of a connection costs: to remember a refusal, to look who opened it, and, of its
// end, all that the report about it takes.
func BenchmarkConntrack(b *testing.B) {
	if os.Getenv(activateVar) != "" {
		testnet.RequireOwnNamespace(b)
		benchmarkConntrack(b)
		return
	}
	measureInNamespace(b, "BenchmarkConntrack", "1x", "conntrack")
}

const benchmarkedFlows = 20_000

func benchmarkConntrack(b *testing.B) {
	m := DefaultMarks()
	t, err := openTracker(m)
	if err != nil {
		b.Fatal(err)
	}
	defer t.close()
	other, err := openTracker(m)
	if err != nil {
		b.Fatal(err)
	}
	defer other.close()
	log := newTrafficLog()
	var lost atomic.Uint64
	ends, err := openReporter(log, t, &lost, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer ends.close()
	tuple := func(i int) packet.Tuple {
		return packet.Tuple{
			Local: netip.MustParseAddrPort("127.0.0.1:9"), Protocol: packet.UDP,
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 9),
		}
	}
	each := func(unit string, do func(c packet.Tuple) error) {
		start := time.Now()
		for i := range benchmarkedFlows {
			if err := do(tuple(i)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/benchmarkedFlows, unit)
	}
	each("us/remember", func(c packet.Tuple) error { return t.remember(c, packet.Outbound, m.DropAlways, 0) })
	each("us/origin", func(c packet.Tuple) error {
		if _, ok := t.origin(c); !ok {
			return ErrClosed
		}
		return nil
	})
	if err := other.forgetMarks(); err != nil {
		b.Fatal(err)
	}
	// All are in the socket's buffer by now.
	fd, err := ends.events.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := fd.Control(func(fd uintptr) { err = ends.drain(int(fd), make([]byte, eventSize)) }); err != nil {
		b.Fatal(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	told := len(log.ends)
	b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(max(told, 1))/1000, "us/report")
	b.ReportMetric(float64(told), "reports")
}

// BenchmarkActivate is what Run does to the host before it is ready, both families: find out how rules work here, and load them.
// It measures in a network namespace, by running this binary there.
func BenchmarkActivate(b *testing.B) {
	if v := os.Getenv(activateVar); v != "" {
		testnet.RequireOwnNamespace(b)
		benchmarkActivate(b, v)
		return
	}
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		b.Run(v.String(), func(b *testing.B) {
			testutil.RequireIPTables(b, testutil.Variant(v.String()))
			measureInNamespace(b, "BenchmarkActivate", "20x", v.String())
		})
	}
}

// measureInNamespace runs a benchmark of this binary in a network namespace, with what in its environment, and reports its figures.
func measureInNamespace(b *testing.B, name, times, what string) {
	b.Helper()
	host := testnet.New(b).Host("bench")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := host.Command(ctx, os.Args[0], "-test.run=^$", "-test.bench=^"+name+"$", "-test.benchtime="+times)
	cmd.Env = append(os.Environ(), activateVar+"="+what)
	out, err := cmd.CombinedOutput()
	figures := regexp.MustCompile(`([0-9.]+) ((?:ms|us)/\S+|reports)`).FindAllStringSubmatch(string(out), -1)
	if err != nil || len(figures) == 0 {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, f := range figures {
		b.ReportMetric(mustFloat(b, f[1]), f[2])
	}
	b.ReportMetric(0, "ns/op") // of starting a process: of no interest
}

func benchmarkActivate(b *testing.B, variant string) {
	cfg := HostConfig{OnExit: ExitOpen, StateFile: filepath.Join(b.TempDir(), "state.json"), Redirects: DefaultRedirects()}
	cfg.Variant = VariantNFT
	if strings.Contains(variant, "legacy") {
		cfg.Variant = VariantLegacy
	}
	var open, up time.Duration
	for range b.N {
		start := time.Now()
		h, err := openHost(cfg, nil)
		if err != nil {
			b.Fatal(err)
		}
		open += time.Since(start)
		start = time.Now()
		if err := errors.Join(h.prepare(), h.up(b.Context())); err != nil {
			b.Fatal(err)
		}
		up += time.Since(start)
		if err := h.down(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(ms(open), "ms/probe")
	b.ReportMetric(ms(up), "ms/load")
	b.ReportMetric(ms(open+up), "ms/activate")
}

func mustFloat(b *testing.B, s string) float64 {
	b.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		b.Fatal(err)
	}
	return f
}
