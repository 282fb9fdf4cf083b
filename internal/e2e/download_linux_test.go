package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
)

const (
	// growLimit is how long a transfer that goes on may take to show it. TCP that was interrupted tries again after a time that
	// doubles with each attempt.
	growLimit = 10 * time.Second
	// quiet is how long a transfer must not move to count as stalled.
	quiet = 400 * time.Millisecond
	// onTheWay is more than may have been sent before a transfer was stopped.
	onTheWay = 64 << 10
)

// stream is a web page without an end, some 400 kB a second.
func stream(w http.ResponseWriter, r *http.Request) {
	part := make([]byte, 4096)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := w.Write(part); err != nil {
			return // the client is gone
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return // as above
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// page is the small answer.
func page(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "hello") // the client notices what is missing
}

// download is a curl, or a copy of it, that reads the stream.
type download struct {
	*testnet.Process
	name, file string
	from       netip.Addr
}

// download starts reading the stream of a web server.
func (r *rig) download(t *testing.T, h *testnet.Host, curl, from string) *download {
	t.Helper()
	a := netip.MustParseAddr(from)
	url := fmt.Sprintf("http://%s/stream", netip.AddrPortFrom(a, webPort))
	f, err := os.CreateTemp(r.dir, "download")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("download of %s from %s by %s", h.Name(), from, filepath.Base(curl))
	return &download{
		Process: h.Start(t, curl, "-gsSN", "--noproxy", "*", "-o", f.Name(), url),
		name:    name, file: f.Name(), from: a,
	}
}

// size is how much came so far.
func (d *download) size(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(d.file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// running fails the test if the program has ended: its connection was reset, say.
func (d *download) running(t *testing.T) {
	t.Helper()
	select {
	case <-d.Done():
		t.Fatalf("%s ended: %v\n%s", d.name, d.Wait(), d.Output())
	default:
	}
}

func sizes(t *testing.T, ds []*download) []int64 {
	t.Helper()
	all := make([]int64, len(ds))
	for i, d := range ds {
		all[i] = d.size(t)
	}
	return all
}

// waitGrow waits until all downloads got more.
func waitGrow(t *testing.T, r *rig, ds []*download) {
	t.Helper()
	before := sizes(t, ds)
	for i, d := range ds {
		r.eventually(t, growLimit, d.name+" goes on", func() bool {
			d.running(t)
			return d.size(t) > before[i]+onTheWay
		})
	}
}

// waitStall waits until no download has got anything for a while, and wants their programs to be there still.
func waitStall(t *testing.T, r *rig, ds []*download) {
	t.Helper()
	last, since := sizes(t, ds), time.Now()
	r.eventually(t, growLimit, "downloads stand still", func() bool {
		for i, d := range ds {
			d.running(t)
			if n := d.size(t); n != last[i] {
				last[i], since = n, time.Now()
			}
		}
		return time.Since(since) > quiet
	})
}
