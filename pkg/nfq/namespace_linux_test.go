package nfq_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
)

// TestIntegrationOtherNamespace checks what a thread can do that is in another network namespace than its process: nothing with
// our rules, which would be loaded into the process's, and everything with rules of the caller.
func TestIntegrationOtherNamespace(t *testing.T) {
	testutil.RequireIPTables(t, testutil.VariantNFT)
	testutil.RequireNFQUEUE(t)
	if !testnet.Isolate(t) {
		return
	}
	there := testnet.New(t).Host("there")
	t.Run("our rules", func(t *testing.T) {
		here, before := testnet.MachineSnapshot(t), there.Snapshot(t)
		for name, call := range map[string]func() error{
			"run":     func() error { return newSource(t, withRules(t)).Run(t.Context(), accepting{}, nil) },
			"cleanup": func() error { return nfq.Cleanup(t.Context(), nfq.HostConfig{}) },
		} {
			var hostErr *nfq.HostError
			err := there.Do(call)
			if !errors.Is(err, nfq.ErrNamespace) || !errors.Is(err, intercept.ErrNotInterceptable) || !errors.As(err, &hostErr) {
				t.Errorf("%s: got %v; want a HostError that wraps ErrNamespace and ErrNotInterceptable", name, err)
			} else if !strings.Contains(hostErr.Remedy, "ip netns exec") {
				t.Errorf("%s: got the remedy %q; want it to name ip netns exec", name, hostErr.Remedy)
			}
		}
		if diff := testnet.Diff(here, testnet.MachineSnapshot(t)) + testnet.Diff(before, there.Snapshot(t)); diff != "" {
			t.Errorf("got changes; want none:\n%s", diff)
		}
	})
	t.Run("rules of the caller", func(t *testing.T) { testForeignNamespace(t, there) })
}

// testForeignNamespace checks that packets and sockets are those of the thread's namespace.
func testForeignNamespace(t *testing.T, there *testnet.Host) {
	echo := there.TCPEcho(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	there.Run(t, "iptables-nft", "-A", "OUTPUT", "-p", "tcp", "--syn", "-j", "NFQUEUE", "--queue-num", "9")
	s := newSource(t, nfq.Config{SkipRuleset: true, ReadQueues: []uint16{9}, Style: nfq.StylePlain})
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- there.Do(func() error { return s.Run(ctx, accepting{}, func() { close(ready) }) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	c, err := there.Dial(ctx, "tcp", echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A reader adds up what it counted after the packets have gone on.
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Lookups == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("got no packet; want the SYN")
		}
	}
	err = s.Cut(packet.Tuple{
		Local: netip.MustParseAddrPort(c.LocalAddr().String()), Remote: echo.Addr(), Protocol: packet.TCP,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("got %v after Cut; want ECONNABORTED", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
