package ivpn_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/pkg/ivpn"
)

// patience is for a busy machine.
const patience = 3 * time.Minute

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(patience); !holds(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(pause)
	}
}

// daemon starts a double that ends with the test.
func daemon(t *testing.T, cfg ivpntest.Config) *ivpntest.Daemon {
	t.Helper()
	d, err := ivpntest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// folder is one that only root or the user of the test may write, unlike those whose names the test gives: for
// trust, only what is above it counts.
func folder(t *testing.T) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "ivpn")
	if err := os.Mkdir(f, 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

// ears notes what a client hears.
type ears struct {
	mu     sync.Mutex
	events []ivpn.Event
}

func (e *ears) on(ev ivpn.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, ev)
}

// all returns the events so far.
func (e *ears) all() []ivpn.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]ivpn.Event(nil), e.events...)
}

// count is how many events are of a type.
func count[T ivpn.Event](e *ears) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if _, ok := ev.(T); ok {
			n++
		}
	}
	return n
}

// last returns the newest event of a type.
func last[T ivpn.Event](e *ears) (found T) {
	for _, ev := range e.all() {
		if v, ok := ev.(T); ok {
			found = v
		}
	}
	return found
}

// runs runs something until the test ends or stop is called, and returns when the first attempt is over.
func runs(t *testing.T, run func(context.Context, func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(ctx, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v; want nil", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("Run is never ready")
	}
	return stop
}

// client starts a client whose polls are quick.
func client(t *testing.T, cfg ivpn.ClientConfig) (*ivpn.Client, *ears, func()) {
	t.Helper()
	e := &ears{}
	cfg.On = e.on
	cfg.Poll = 10 * time.Millisecond
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, patience)
	c, err := ivpn.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, e, runs(t, c.Run)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func kinds(events []ivpn.Event) (list []string) {
	for _, ev := range events {
		list = append(list, fmt.Sprintf("%T", ev))
	}
	return list
}
