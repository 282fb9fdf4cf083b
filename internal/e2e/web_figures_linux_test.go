package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/weirfw/weir/internal/testnet"
)

// benchmarks reports whether scripts/bench-web.sh asks: then there is more, for longer, on a machine that does nothing else.
func benchmarks() bool { return os.Getenv("WEIR_BENCH") != "" }

// figures are the memory of refd with the page open and many live connections, and what it does while nothing happens.
func (w *webRig) figures(t *testing.T) {
	t.Helper()
	live := 5_000
	w.goTo("#/connections")
	if benchmarks() {
		live = 100_000
		w.client.Run(t, "sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=900") // nobody answers them
		w.idle(t, "with hardly a connection")
	}
	const perServer = 25_000
	for i, at := 0, netip.MustParseAddr("203.0.113.100"); i < live; i, at = i+perServer, at.Next() {
		n := min(perServer, live-i)
		b := testnet.Blast{To: netip.AddrPortFrom(at, 20_000), Ports: n, Rate: 2_000, For: time.Duration(n) * time.Second / 2_000}
		if _, err := w.client.Blast(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	st, _ := w.tryStatus()
	if benchmarks() {
		w.rig.eventually(t, startLimit, "most of them live", func() bool {
			st, _ = w.tryStatus()
			return st.Live > live*9/10
		})
	}
	w.b.until("the page has rows", `document.querySelectorAll(".row").length > 10`)
	memory := residentMiB(t, w.refd.PID())
	t.Logf("%d live connections and the page open: refd has %.0f MiB", st.Live, memory)
	if memory > 238 { // 250 MB
		t.Errorf("refd has %.0f MiB", memory)
	}
	if benchmarks() {
		w.idle(t, fmt.Sprintf("with %d live connections", st.Live))
	}
}

// idle wants refd to do next to nothing while nothing happens.
func (w *webRig) idle(t *testing.T, how string) {
	t.Helper()
	pid := w.refd.PID()
	for _, d := range []time.Duration{10 * time.Second, 20 * time.Second} { // what came before is done in the first, and does not count
		before, begin := cpuTime(t, pid), time.Now()
		select {
		case <-time.After(d): // what is measured is what happens when nothing does
		case <-t.Context().Done():
		}
		used := float64(cpuTime(t, pid)-before) / float64(time.Since(begin))
		t.Logf("%s, for %v: refd takes %.2f %% of a core", how, d, 100*used)
		if d == 20*time.Second && used > 0.01 {
			t.Errorf("%s: refd takes %.2f %% of a core while nothing happens", how, 100*used)
		}
	}
}

// watchTasks notes how long the page's thread is busy without a pause, from 50 ms on (W3C Long Tasks).
func (w *webRig) watchTasks() {
	w.b.t.Helper()
	w.b.run(chromedp.Evaluate[chromedp.Void](`window.tasks = []; window.observer = new PerformanceObserver(l => l.getEntries().forEach(e => tasks.push(e.duration))); observer.observe({type: "longtask"})`))
}

// wantTasks tells what watchTasks noted, and wants none to be longer than so many milliseconds.
func (w *webRig) wantTasks(t *testing.T, when string, limit float64) {
	t.Helper()
	longest := js[float64](w.b, `observer.disconnect(), Math.max(0, ...tasks)`)
	t.Logf("%s: %d tasks over 50 ms, the longest %.0f ms", when, js[int](w.b, `tasks.length`), longest)
	if longest > limit {
		t.Errorf("%s: the longest task took %.0f ms; want %.0f at most", when, longest, limit)
	}
}

// manyRows reads the list on to 100,000 rows, and has 200 connections a second come meanwhile and then.
func (w *webRig) manyRows(t *testing.T) {
	t.Helper()
	const rows, rate = 90_000, 200
	w.watchTasks()
	for begin := time.Now(); js[int](w.b, `Math.round(document.querySelector(".space").offsetHeight / 30)`) < rows; time.Sleep(pollPause) {
		if time.Since(begin) > 5*time.Minute {
			t.Fatal("the list is not read on")
		}
		w.b.run(chromedp.Evaluate[chromedp.Void](`document.querySelector(".rows").scrollTop = 1e9`))
	}
	w.wantTasks(t, fmt.Sprintf("reading on to %d rows", rows), 100)
	w.b.run(chromedp.Evaluate[chromedp.Void](`document.querySelector(".rows").scrollTop = 0`))
	const shown = `Number(document.querySelector(".foot").textContent.split(" ")[0].replace(/\D/g, ""))`
	before := js[int](w.b, shown)
	w.watchTasks()
	b := testnet.Blast{To: netip.MustParseAddrPort("203.0.113.98:20000"), Ports: 20 * rate, Rate: rate, For: 20 * time.Second}
	if _, err := w.client.Blast(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w.b.until("all are counted", fmt.Sprintf(`%s >= %d`, shown, before+b.Ports))
	w.wantTasks(t, fmt.Sprintf("%d rows, and %d more at %d a second", rows, b.Ports, rate), 100)
}

// cpuTime is what a process has used of the processors (proc(5), stat, fields 14 and 15, in clock ticks of 10 ms).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks time.Duration
	for _, f := range fields[11:13] {
		var n time.Duration
		if _, err := fmt.Sscan(f, &n); err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks * 10 * time.Millisecond
}

// residentMiB is how much memory a process has (proc(5), status, VmRSS).
func residentMiB(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}
