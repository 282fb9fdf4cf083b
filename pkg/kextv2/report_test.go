package kextv2_test

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
)

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 13)
		kexttest.NoFaults(t, d)
		h := &kexttest.Handler{}
		start(t, d, kextv2.Config{Version: version}, h)
		t4 := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}
		t6 := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00::2]:6")}
		d.Used(stream.Usage{Tuple: t4, Transmitted: 7, Received: 11})
		// A report about connections over IPv6, by hand: transmitted comes before received.
		d.Inject(testutil.Hex(t, `06 39000000 06 01000000
			fd000000000000000000000000000001 0500 fd000000000000000000000000000002 0600
			0100000000000000 0200000000000000`))
		d.End(stream.End{Tuple: t6})
		d.End(stream.End{Tuple: t4})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if want := []intercept.Usage{{Tuple: t6, SentBytes: 1, ReceivedBytes: 2}, {Tuple: t4, SentBytes: 7, ReceivedBytes: 11}}; !slices.Equal(h.Usage(), want) {
			t.Errorf("got %v; want %v", h.Usage(), want)
		}
		if want := []packet.Tuple{t6, t4}; !slices.Equal(h.Ends(), want) {
			t.Errorf("got %v; want %v", h.Ends(), want)
		}
	})
}

// A report about many connections comes in parts, and is passed on in parts.
func TestLongReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		kexttest.NoFaults(t, d)
		h := &kexttest.Handler{}
		start(t, d, kextv2.Config{Version: version}, h)
		const many = 5000
		for n := range uint64(many) {
			d.Used(stream.Usage{
				Tuple: packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}, Received: n,
			})
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if len(h.Usage()) != many || h.Usage()[many-1].ReceivedBytes != many-1 {
			t.Errorf("got %d connections; want %d", len(h.Usage()), many)
		}
	})
}

// Every second, every 30 seconds, and at both ends.
func TestHousekeeping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		kexttest.NoFaults(t, d)
		_, stop := start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{})
		time.Sleep(60*time.Second + 500*time.Millisecond)
		synctest.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[byte]int{0: 1, 1: 0, 2: 0, 3: 0, 4: 1, 5: 60, 6: 60, 7: 0, 8: 2} {
			if got := len(told(d, id)); got != want {
				t.Errorf("command %d: got %d; want %d", id, got, want)
			}
		}
		all := d.Commands()
		if first, last := all[0].Data[0], all[len(all)-1].Data[0]; first != 4 || last != 0 || d.IsOpen() {
			t.Errorf("got command %d first, %d last, the device open: %v; want 4, 0, false", first, last, d.IsOpen())
		}
	})
}

// lines is a logger's output.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		var out lines
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))
		s, _ := start(t, d, kextv2.Config{Version: version, Logger: log}, &kexttest.Handler{})
		for severity := range byte(8) {
			d.Inject([]byte{0, 2, 0, 0, 0, severity, 'a' + severity})
		}
		if err := s.PrintMemoryStats(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // once to get logs
		synctest.Wait()
		for _, want := range []string{
			"level=INFO msg=driver text=a", "level=DEBUG-4 msg=driver text=b", "level=DEBUG msg=driver text=c",
			"level=INFO msg=driver text=d", "level=WARN msg=driver text=e", "level=ERROR msg=driver text=f",
			"level=ERROR+4 msg=driver text=g", "level=INFO msg=driver text=h", "text=mem", "text=log",
		} {
			if !strings.Contains(out.String(), want+"\n") {
				t.Errorf("got no line %q in\n%s", want, out.String())
			}
		}
	})
}
