package api_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testutil"
)

// servePing serves pings until stop is called.
func servePing(t *testing.T, ping func()) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- api.ServePing(ctx, free, ping, slog.New(slog.DiscardHandler), func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	return free.String(), func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestPing(t *testing.T) {
	testutil.NoLeaks(t)
	var pings atomic.Int64
	addr, stop := servePing(t, func() { pings.Add(1) })
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for path, want := range map[string]int{"/": 404, "/api/v1/status": 404, "/api/v1/interop/": 404} {
		if code, _ := ask(http.MethodGet, path); code != want {
			t.Errorf("%s: got %d; want %d", path, code, want)
		}
	}
	if code, _ := ask(http.MethodPost, api.PingPath); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d; want %d", code, http.StatusMethodNotAllowed)
	}
	if n := pings.Load(); n != 0 {
		t.Errorf("got %d pings of those; want 0", n)
	}
	start := time.Now()
	const many = 20
	for range many {
		if code, body := ask(http.MethodGet, api.PingPath+"?message=hello"); code != http.StatusNoContent || body != "" {
			t.Errorf("got %d %q; want an empty answer", code, body)
		}
	}
	if n, most := pings.Load(), int64(time.Since(start)/time.Second)+1; n < 1 || n > most {
		t.Errorf("got %d pings passed on; want 1 to %d of %d", n, most, many)
	}
	stop()
}

// Connections that say nothing, however many, do not keep it from ending.
func TestPingIdle(t *testing.T) {
	testutil.NoLeaks(t)
	addr, stop := servePing(t, func() {})
	for range 50 {
		c, err := net.Dial("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	stop()
}
