package kextv1_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
)

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		h := &kexttest.Handler{}
		s, stop := start(t, d, kextv1.Config{}, h)
		t4 := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}
		t6 := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00:2::2]:6")}
		d.Used(ioctl.Stat{Tuple: t4, Version: 4, Received: 1, Transmitted: 2}, ioctl.Stat{Tuple: t6, Version: 6, Received: 3, Transmitted: 4})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if want := []intercept.Usage{{Tuple: t4, ReceivedBytes: 1, SentBytes: 2}, {Tuple: t6, ReceivedBytes: 3, SentBytes: 4}}; !slices.Equal(h.Usage(), want) {
			t.Errorf("got %v; want %v", h.Usage(), want)
		}
		// More than one answer has room for.
		for n := range uint64(2500) {
			d.Used(ioctl.Stat{Tuple: t4, Version: 4, Received: n})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := h.Usage(); len(got) != 2+2500 || got[2+2499].ReceivedBytes != 2499 {
			t.Errorf("got %d connections; want 2500 more", len(got))
		}
		if got := told(d, codeGetStats); len(got) != 1+3 || !slices.Equal(got[0], []byte{0, 4, 0, 0, 0, 0, 0, 0}) {
			t.Errorf("got % x; want four questions for 1024", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := s.Stats(); got.Waiting != 0 {
			t.Errorf("got %+v", got)
		}
		all := d.Commands()
		if first, last := all[0].Code, all[len(all)-1].Code; first != codeClearCache || last != codeShutdown || d.IsOpen() {
			t.Errorf("got %#x first, %#x last, open %v", first, last, d.IsOpen())
		}
	})
}
