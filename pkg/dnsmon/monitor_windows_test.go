package dnsmon

import (
	"context"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
)

const generous = 30 * time.Second

// fakeETW is the tests' side of the fake tracing library.
type fakeETW struct {
	path string
	dll  *windows.LazyDLL
}

func newFakeETW(t *testing.T) *fakeETW {
	t.Helper()
	path := winerig.File(t, "fakeetw.dll")
	return &fakeETW{path: path, dll: windows.NewLazyDLL(path)}
}

func utf16z(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// post raises an event of the DNS client.
func (f *fakeETW) post(name, results string, pid uint32) {
	n, r := utf16z(name), utf16z(results)
	_, _, _ = f.dll.NewProc("FakePost").Call(uintptr(unsafe.Pointer(&n[0])), uintptr(len(n)), // it returns nothing
		uintptr(unsafe.Pointer(&r[0])), uintptr(len(r)), uintptr(pid), 0)
}

func (f *fakeETW) fail(function string, code windows.Errno) {
	name := append([]byte(function), 0)
	_, _, _ = f.dll.NewProc("FakeFail").Call(uintptr(unsafe.Pointer(&name[0])), uintptr(code)) // it returns nothing
}

// heard collects what a monitor tells.
type heard struct {
	mu         sync.Mutex // guards what follows
	answers    []Answer
	conditions []string
}

func (h *heard) config(library string) Config {
	return Config{
		Library: library, Session: "weir-dnsmon-test", MinPause: 10 * time.Millisecond,
		Handle: func(a Answer) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.answers = append(h.answers, a)
		},
		Report: func(c Condition) {
			h.mu.Lock()
			defer h.mu.Unlock()
			id := c.ID
			if c.Over {
				id = "-" + id
			}
			h.conditions = append(h.conditions, id)
		},
	}
}

func (h *heard) snapshot() (answers []Answer, conditions []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(answers, h.answers...), append(conditions, h.conditions...)
}

// run runs a monitor until the test ends.
func run(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- m.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-ready:
	case <-time.After(generous):
		t.Fatal("not ready")
	}
}

func TestMonitorTellsWhatWasAnswered(t *testing.T) {
	testutil.NoLeaks(t)
	f, h := newFakeETW(t), &heard{}
	m, err := New(h.config(f.path))
	if err != nil {
		t.Fatal(err)
	}
	run(t, m)
	f.post("www.X.test", "type: 5 edge.test;::ffff:192.0.2.1;2001:db8::1;", 4711)
	f.post("www.x.test", "", 1)         // a query begins, or finds nothing
	f.post("www.x.test", "nonsense", 2) // is counted
	f.post("other.test", "192.0.2.2;", 42)
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	answers, conditions := h.snapshot()
	want := []string{
		"[www.x.test]; www.x.test 0s edge.test; edge.test 0s 192.0.2.1; edge.test 0s 2001:db8::1", "[other.test]; other.test 0s 192.0.2.2",
	}
	if len(answers) != len(want) || len(conditions) != 0 {
		t.Fatalf("got %v and conditions %v; want %v", answers, conditions, want)
	}
	for n, a := range answers {
		if got := words(a); got != want[n] || a.PID != []int{4711, 42}[n] {
			t.Errorf("answer %d: got %s of %d; want %s", n, got, a.PID, want[n])
		}
	}
	if s := m.Stats(); s.Answers != 2 || s.Bad != 1 || s.Connects != 1 || !s.Connected {
		t.Errorf("got %+v; want 2 answers, 1 bad", s)
	}
}

// What Windows refuses is reported, tried again, and over when it works.
func TestMonitorReportsRefusals(t *testing.T) {
	testutil.NoLeaks(t)
	f, h := newFakeETW(t), &heard{}
	m, err := New(h.config(f.path))
	if err != nil {
		t.Fatal(err)
	}
	f.fail("StartTraceW", windows.ERROR_ACCESS_DENIED)
	run(t, m)
	for deadline := time.Now().Add(generous); !m.Stats().Connected; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not begin again")
		}
	}
	if _, got := h.snapshot(); len(got) != 2 || got[0] != ResolverRefuses || got[1] != "-"+ResolverRefuses {
		t.Errorf("got conditions %v; want %s, and that it is over", got, ResolverRefuses)
	}
}
