package etw

import (
	"context"
	"errors"
	"slices"
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

// fake is the tests' side of the fake ETW. The DLL keeps its state for the process: tests do not run in parallel.
type fake struct {
	t    *testing.T
	path string
	dll  *windows.LazyDLL
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, path: winerig.File(t, "fakeetw.dll")}
	f.dll = windows.NewLazyDLL(f.path)
	t.Cleanup(func() {
		f.call("FakeHold", 0)
		for what, n := range []string{"sessions", "open traces", "registered providers"} {
			if got := f.count(what); got != 0 {
				t.Errorf("%d %s are left", got, n)
			}
		}
	})
	return f
}

func (f *fake) call(name string, args ...uintptr) uintptr {
	r, _, _ := f.dll.NewProc(name).Call(args...)
	return r
}

func (f *fake) count(what int) int { return int(f.call("FakeCount", uintptr(what))) }

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// post raises an event; what the properties lack at their end is up to the test.
func (f *fake) post(name, results []byte, pid, fault uint32) {
	f.call("FakePost", uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(len(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(results))), uintptr(len(results)), uintptr(pid), uintptr(fault))
}

func (f *fake) postText(name, results string, pid uint32) {
	f.post(utf16le(name+"\x00"), utf16le(results+"\x00"), pid, 0)
}

func (f *fake) fail(function string, code windows.Errno) {
	name := append([]byte(function), 0)
	f.call("FakeFail", uintptr(unsafe.Pointer(&name[0])), uintptr(code))
}

// log collects events.
type log struct {
	mu     sync.Mutex
	events []Event
}

func (l *log) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *log) all() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (f *fake) reader(l *log) *Reader {
	f.t.Helper()
	r, err := New(Config{
		Session: "weir-test", Provider: DNSClient, Properties: []string{"QueryName", "QueryResults"}, Event: l.add, Library: f.path,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// run runs the reader until the function that it returns is called, which returns what Run did.
func run(t *testing.T, r *Reader) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("Run: got %v; want it to be ready", err)
	}
	return func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(generous):
			return errors.New("Run does not end")
		}
	}
}

func flush(t *testing.T, r *Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	if err := r.Flush(ctx); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

func TestLayout(t *testing.T) {
	f := newFake(t)
	var p eventTraceProperties
	var l eventTraceLogfile
	var r eventRecord
	for i, got := range []uintptr{
		unsafe.Sizeof(p), unsafe.Sizeof(eventTrace{}), unsafe.Sizeof(traceLogfileHeader{}), unsafe.Sizeof(l), unsafe.Sizeof(r),
		unsafe.Sizeof(propertyDataDescriptor{}), unsafe.Sizeof(eventDescriptor{}),
		unsafe.Offsetof(p.logFileMode), unsafe.Offsetof(p.loggerNameOffset), unsafe.Offsetof(l.processTraceMode),
		unsafe.Offsetof(l.eventRecordCallback), unsafe.Offsetof(l.context), unsafe.Offsetof(r.userData), unsafe.Offsetof(r.userContext),
		unsafe.Offsetof(r.header.providerID), unsafe.Offsetof(r.header.descriptor),
	} {
		if want := f.call("FakeLayout", uintptr(i)); got != want {
			t.Errorf("layout %d: got %d; want %d", i, got, want)
		}
	}
	for what, sizes := range map[string][2]uintptr{
		"EVENT_TRACE_PROPERTIES": {unsafe.Sizeof(p), 120}, "EVENT_TRACE": {unsafe.Sizeof(eventTrace{}), 88},
		"TRACE_LOGFILE_HEADER": {unsafe.Sizeof(traceLogfileHeader{}), 280}, "EVENT_TRACE_LOGFILEW": {unsafe.Sizeof(l), 448},
		"EVENT_RECORD": {unsafe.Sizeof(r), 112},
	} {
		if sizes[0] != sizes[1] {
			t.Errorf("%s: got %d; want %d", what, sizes[0], sizes[1])
		}
	}
}

func TestEvents(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	var l log
	r := f.reader(&l)
	stop := run(t, r)
	before := time.Now().Add(-time.Hour)
	f.postText("a.example", "192.0.2.1;", 11)
	f.postText("aaaa.example", "2001:db8::1;::ffff:192.0.2.2;", 12)
	f.postText("www.example", "type: 5 cdn.example;type: 5 edge.example;192.0.2.3;", 13)
	f.postText("empty.example", "", 14)
	f.post(utf16le("none.example\x00"), nil, 15, 1)
	f.post(utf16le("huge.example\x00"), utf16le("192.0.2.4;\x00"), 16, 2)
	f.post(utf16le("unreadable.example\x00"), utf16le("192.0.2.5;\x00"), 17, 3)
	f.post(utf16le("endless.example"), append(utf16le("192.0.2.6;"), 'x'), 18, 0)
	f.post(nil, []byte{0x3d, 0xd8}, 19, 0)
	flush(t, r)
	want := [][2]string{
		{"a.example", "192.0.2.1;"}, {"aaaa.example", "2001:db8::1;::ffff:192.0.2.2;"},
		{"www.example", "type: 5 cdn.example;type: 5 edge.example;192.0.2.3;"}, {"empty.example", ""}, {"none.example", ""},
		{"huge.example", ""}, {"unreadable.example", ""}, {"endless.example", "192.0.2.6;"}, {"", "\uFFFD"},
	}
	got := l.all()
	if len(got) != len(want) {
		t.Fatalf("got %d events after a flush; want %d", len(got), len(want))
	}
	for i, e := range got {
		if e.ID != 3008 || e.PID != uint32(11+i) || e.Time.Before(before) || !slices.Equal(e.Properties, want[i][:]) {
			t.Errorf("event %d: got %+v; want %q of process %d", i, e, want[i], 11+i)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("Run: got %v; want nil", err)
	}
	if err := r.Flush(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Flush after the end: got %v; want %v", err, ErrNotRunning)
	}
}

// TestStaleSession: a process that was killed leaves its session, and a trace of it ends with an error that says so.
func TestStaleSession(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	var l log
	first := f.reader(&l)
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- first.Run(t.Context(), func() { close(ready) }) }()
	<-ready
	if err := first.Run(t.Context(), nil); !errors.Is(err, ErrRunning) {
		t.Errorf("second Run: got %v; want %v", err, ErrRunning)
	}
	second := f.reader(&l)
	stop := run(t, second)
	if err := <-done; !errors.Is(err, ErrEnded) {
		t.Errorf("Run whose session was taken: got %v; want %v", err, ErrEnded)
	}
	f.postText("a.example", "192.0.2.1;", 1)
	flush(t, second)
	if got := l.all(); len(got) != 1 {
		t.Errorf("got %d events; want 1", len(got))
	}
	if err := stop(); err != nil {
		t.Errorf("Run: got %v; want nil", err)
	}
}

// TestBlockedEnd: ProcessTrace goes on after CloseTrace has returned, and calls back once more.
func TestBlockedEnd(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	var l log
	const hold = 300 * time.Millisecond
	f.call("FakeHold", uintptr(hold.Milliseconds()))
	r := f.reader(&l)
	stop := run(t, r)
	f.postText("a.example", "192.0.2.1;", 1)
	flush(t, r) // ProcessTrace runs
	if err := stop(); err != nil {
		t.Errorf("Run: got %v; want nil", err)
	}
	// Run waited for the late event; nothing comes after it.
	if got := l.all(); len(got) != 2 {
		t.Errorf("got %d events by the end of Run; want the late one, too", len(got))
	}
	if got := f.count(1); got != 0 {
		t.Errorf("got %d open traces after Run; want none", got)
	}
}

// TestBlockedEvent: Config.Event hangs while Run is to end.
func TestBlockedEvent(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r, err := New(Config{Session: "weir-test", Provider: DNSClient, Properties: []string{"QueryName"}, Library: f.path, Event: func(Event) {
		once.Do(func() { close(entered) })
		<-leave
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	<-ready
	f.postText("a.example", "", 1)
	<-entered // by the session's timer
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	if err := r.Flush(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush behind a blocked event: got %v; want %v", err, context.DeadlineExceeded)
	}
	cancel()
	select {
	case err := <-done:
		t.Errorf("Run returned %v while an event was being handled", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(leave)
	if err := <-done; err != nil {
		t.Errorf("Run: got %v; want nil", err)
	}
}

func TestFailures(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	var l log
	r := f.reader(&l)
	for _, function := range []string{"StartTraceW", "EventRegister", "EnableTraceEx2", "OpenTraceW", "ProcessTrace"} {
		f.fail(function, windows.ERROR_ACCESS_DENIED)
		if err := r.Run(t.Context(), nil); !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
			t.Errorf("%s fails: got %v; want %v", function, err, windows.ERROR_ACCESS_DENIED)
		}
		if f.count(0)+f.count(1)+f.count(2) != 0 {
			t.Errorf("%s fails: something is left", function)
		}
	}
	if _, err := New(Config{Session: "x", Provider: "no GUID", Properties: []string{"x"}, Event: l.add, Library: f.path}); err == nil {
		t.Error("New with a bad provider: got nil; want an error")
	}
	if _, err := New(Config{Session: "x", Provider: DNSClient, Properties: []string{"x"}, Event: l.add, Library: f.path + ".absent"}); err == nil {
		t.Error("New without the library: got nil; want an error")
	}
}

// TestCycles: nothing is left of a thousand runs, of which there are more than a process has callbacks if each made two.
func TestCycles(t *testing.T) {
	testutil.NoLeaks(t)
	f := newFake(t)
	var l log
	r := f.reader(&l)
	for n := range 1000 {
		stop := run(t, r)
		if n%100 == 0 {
			f.postText("a.example", "192.0.2.1;", uint32(n))
			flush(t, r)
		}
		if err := stop(); err != nil {
			t.Fatalf("run %d: got %v; want nil", n, err)
		}
	}
	if got := len(l.all()); got != 10 {
		t.Errorf("got %d events; want 10", got)
	}
}
