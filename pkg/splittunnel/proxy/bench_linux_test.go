package proxy_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// benchVar tells a test binary that it runs a benchmark in a namespace of its own.
const benchVar = "WEIR_PROXY_BENCH"

// isolateBench is testnet.Isolate for benchmarks: the benchmark runs in a process of its own, and the results of its parts
// become those of b. It returns true in that process.
func isolateBench(b *testing.B) bool {
	b.Helper()
	if os.Getenv(benchVar) == b.Name() {
		return true
	}
	host := testnet.New(b).Host("isolated")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args := []string{"-test.run=^$", "-test.bench=^" + regexp.QuoteMeta(b.Name()) + "$"}
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(arg, "-test.benchtime") {
			args = append(args, arg)
		}
	}
	cmd := host.Command(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), benchVar+"="+b.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("isolated: %v\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(b.Name()) + `/(\S+?)(-\d+)?\s+\d+\s+(.*)$`)
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		b.Run(m[1], func(b *testing.B) {
			fields := strings.Fields(m[3])
			for i := 0; i+1 < len(fields); i += 2 {
				v, err := strconv.ParseFloat(fields[i], 64)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(v, fields[i+1])
			}
		})
	}
	return false
}

// benchmark runs a load directly, with no rule of the packet filter anywhere, and then through the proxy. Each operation is
// worth so many bytes.
func benchmark(b *testing.B, what string, port uint16, bytes int64) {
	if !isolateBench(b) {
		return
	}
	r := newRig(b)
	f := families[0]
	lab := testnet.New(b)
	program := lab.Program(b, "./testdata/load")
	const gateway = "10.1.0.2"
	for _, addr := range []string{gateway, f.service.String()} {
		r.server.Start(b, program, "serve", addr, "7").WaitOutput(b, "READY", limit)
	}
	one := func(b *testing.B, to string) {
		b.SetBytes(bytes)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.ResetTimer()
		out, err := exec.Command(program, what, to, strconv.Itoa(b.N)).CombinedOutput()
		b.StopTimer()
		runtime.ReadMemStats(&after)
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "proxy-allocs/op")
		if lost, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "lost "); ok {
			n, err := strconv.Atoi(lost)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(n), "lost")
		}
	}
	b.Run("direct", func(b *testing.B) { one(b, gateway+":"+strconv.Itoa(int(port))) })
	r.redirect()
	r.director.quiet = true
	r.start(proxy.Config{})
	b.Run("proxy", func(b *testing.B) { one(b, f.at(port).String()) })
}

// BenchmarkTCPSessions is connections with one exchange of 64 bytes, 8 at a time.
func BenchmarkTCPSessions(b *testing.B) { benchmark(b, "sessions", 8, 0) }

// BenchmarkTCPStream is megabytes of one upload.
func BenchmarkTCPStream(b *testing.B) { benchmark(b, "stream", 9, 1<<20) }

// BenchmarkUDPEcho is datagrams of 64 bytes there and back, 64 on their way.
func BenchmarkUDPEcho(b *testing.B) { benchmark(b, "datagrams", 7, 0) }
