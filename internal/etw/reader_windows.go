package etw

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Reader reads events. Its methods may be called from any goroutine.
type Reader struct {
	cfg      Config
	lib      *library
	provider windows.GUID
	names    []*uint16

	active atomic.Bool // Run is

	mu  sync.Mutex // guards run
	run *running   // nil unless events are being read
}

// running is one Run. ProcessTrace, its callbacks and everything they use end before Run returns.
type running struct {
	reader         *Reader
	key            uintptr // by which callbacks find it
	name           []uint16
	session, trace uint64
	marker         uint64 // our own provider, by whose events Flush knows how far the reader is
	markerID       windows.GUID

	mu      sync.Mutex                 // guards what follows
	marks   uint16                     // the last mark that was written
	waiting map[uint16]chan<- struct{} // who waits for which mark
}

// Callbacks find their Run by a number: Windows keeps what it is given as a context, and Go's pointers are not for keeping. A
// callback can never be given back, and a process has 2,000 of them: there is one for all readers.
//
//nolint:gochecknoglobals // see above
var (
	runs     sync.Map // uintptr -> *running
	lastKey  atomic.Uintptr
	callback = sync.OnceValue(func() uintptr {
		return windows.NewCallback(func(r *eventRecord) uintptr {
			if found, ok := runs.Load(r.userContext); ok {
				if run, ok := found.(*running); ok {
					run.event(r)
				}
			}
			return 0
		})
	})
)

// New checks the configuration and finds the functions of ETW. It starts nothing.
func New(cfg Config) (*Reader, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	r := &Reader{cfg: cfg}
	r.cfg.Properties = append([]string(nil), cfg.Properties...)
	var err error
	if r.provider, err = windows.GUIDFromString(cfg.Provider); err != nil {
		return nil, fmt.Errorf("etw: config: provider %q is no GUID: %w", cfg.Provider, err)
	}
	for _, p := range r.cfg.Properties {
		name, err := windows.UTF16PtrFromString(p)
		if err != nil {
			return nil, fmt.Errorf("etw: config: property %q: %w", p, err)
		}
		r.names = append(r.names, name)
	}
	if r.lib, err = load(cfg.Library); err != nil {
		return nil, err
	}
	return r, nil
}

// Run starts the session, calls ready (if that is not nil), and reads events until ctx is done; then it returns nil. When it
// returns, no call of Config.Event is running, and the session has ended. It needs an administrator. Errors wrap ErrEnded if
// somebody else ended the session; it may run again after any
// error. While it is active, another call returns ErrRunning.
func (r *Reader) Run(ctx context.Context, ready func()) (err error) {
	if !r.active.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer r.active.Store(false)
	run := &running{reader: r, key: lastKey.Add(1), waiting: make(map[uint16]chan<- struct{})}
	runs.Store(run.key, run)
	defer runs.Delete(run.key)
	if err := run.start(); err != nil {
		return fmt.Errorf("etw: session %s: %w", r.cfg.Session, err)
	}
	r.set(run)
	processed := make(chan error, 1)
	go func() { processed <- run.process() }()
	if ready != nil {
		ready()
	}
	select {
	case <-ctx.Done():
	case err = <-processed:
		// It returned by itself.
		processed <- nil
		if err == nil && ctx.Err() == nil {
			err = ErrEnded
		}
	}
	r.set(nil)
	err = errors.Join(err, run.stop())
	// CloseTrace may return before ProcessTrace: until that returns, events come. If it has not begun yet, it does not find the
	// trace any more.
	if e := <-processed; err == nil && !errors.Is(e, windows.ERROR_INVALID_HANDLE) {
		err = e
	}
	if err != nil {
		return fmt.Errorf("etw: session %s: %w", r.cfg.Session, err)
	}
	return nil
}

// set says to whom Flush turns.
func (r *Reader) set(run *running) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run = run
}

// Flush returns when Config.Event has been called for every event that was raised before. The error is ctx's, ErrNotRunning, or
// says that the session could not be flushed.
func (r *Reader) Flush(ctx context.Context) error {
	r.mu.Lock()
	run := r.run
	r.mu.Unlock()
	if run == nil {
		return ErrNotRunning
	}
	return run.flush(ctx)
}

// start makes the session and opens it for reading. It undoes what it did if it fails.
func (run *running) start() (err error) {
	lib := run.reader.lib
	if run.name, err = windows.UTF16FromString(run.reader.cfg.Session); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	if run.markerID, err = windows.GenerateGUID(); err != nil {
		return fmt.Errorf("make a GUID: %w", err)
	}
	if err := run.startSession(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, run.stop())
		}
	}()
	e := call(lib.register, uintptr(unsafe.Pointer(&run.markerID)), 0, 0, uintptr(unsafe.Pointer(&run.marker)))
	if err := result("EventRegister", e); err != nil {
		return err
	}
	for _, provider := range []*windows.GUID{&run.reader.provider, &run.markerID} {
		e = call(lib.enableTrace, uintptr(run.session), uintptr(unsafe.Pointer(provider)), enableProvider, levelVerbose, 0, 0, 0, 0)
		if err := result("EnableTraceEx2", e); err != nil {
			return err
		}
	}
	return run.open()
}

// startSession starts a session of our name; one that was left behind is ended first.
func (run *running) startSession() error {
	const tries = 3
	for try := 1; ; try++ {
		id, err := windows.GenerateGUID()
		if err != nil {
			return fmt.Errorf("make a GUID: %w", err)
		}
		s := newSession(id)
		e := call(run.reader.lib.startTrace, uintptr(unsafe.Pointer(&run.session)), uintptr(unsafe.Pointer(&run.name[0])), uintptr(unsafe.Pointer(s)))
		switch err := windows.Errno(e); {
		case e == 0:
			return nil
		case err == windows.ERROR_ACCESS_DENIED:
			return fmt.Errorf("StartTrace (this needs an administrator): %w", err)
		case err != windows.ERROR_ALREADY_EXISTS || try == tries:
			return fmt.Errorf("StartTrace: %w", err)
		}
		if err := run.control(0, controlStop); err != nil {
			return fmt.Errorf("end the stale one: %w", err)
		}
	}
}

// control ends or flushes a session, by its handle or by our name. One that is gone is no error for the end.
func (run *running) control(handle uint64, code uintptr) error {
	s := newSession(windows.GUID{})
	name := uintptr(unsafe.Pointer(&run.name[0]))
	if handle != 0 {
		name = 0
	}
	e := call(run.reader.lib.controlTrace, uintptr(handle), name, uintptr(unsafe.Pointer(s)), code)
	runtime.KeepAlive(run)
	if code == controlStop && windows.Errno(e) == instanceNotFound {
		return nil
	}
	return result("ControlTrace", e)
}

func (run *running) open() error {
	l := &eventTraceLogfile{
		loggerName: &run.name[0], processTraceMode: processRealTime | processEventRecord,
		eventRecordCallback: callback(), context: run.key,
	}
	h, _, err := run.reader.lib.openTrace.Call(uintptr(unsafe.Pointer(l)))
	if uint64(h) == invalidTrace {
		return fmt.Errorf("OpenTrace: %w", err)
	}
	run.trace = uint64(h)
	return nil
}

// process calls back for events until the session or the trace ends.
func (run *running) process() error {
	e := call(run.reader.lib.processTrace, uintptr(unsafe.Pointer(&run.trace)), 1, 0, 0)
	return result("ProcessTrace", e)
}

// stop ends what start began, and tries all of it. ProcessTrace returns after that.
func (run *running) stop() error {
	lib := run.reader.lib
	var errs []error
	if run.marker != 0 {
		e := call(lib.unregister, uintptr(run.marker))
		errs = append(errs, result("EventUnregister", e))
	}
	errs = append(errs, run.control(run.session, controlStop))
	if run.trace != 0 {
		e := call(lib.closeTrace, uintptr(run.trace))
		if windows.Errno(e) != ctxClosePending {
			errs = append(errs, result("CloseTrace", e))
		}
	}
	return errors.Join(errs...)
}

// event is called by Windows for each event, on the thread of process.
func (run *running) event(r *eventRecord) {
	switch r.header.providerID {
	case run.markerID:
		run.reached(r.header.descriptor.id)
	case run.reader.provider:
		e := Event{ID: r.header.descriptor.id, PID: r.header.processID, Time: filetime(r.header.timeStamp)}
		for _, name := range run.reader.names {
			e.Properties = append(e.Properties, run.reader.lib.get(r, name))
		}
		run.reader.cfg.Event(e)
	}
}

// flush raises an event of our own, and waits until it comes back: events are given out in the order in which they were raised.
func (run *running) flush(ctx context.Context) error {
	came := make(chan struct{}, 1)
	run.mu.Lock()
	run.marks++
	mark := run.marks
	run.waiting[mark] = came
	run.mu.Unlock()
	defer func() {
		run.mu.Lock()
		defer run.mu.Unlock()
		delete(run.waiting, mark)
	}()
	d := eventDescriptor{id: mark, level: levelVerbose}
	e := call(run.reader.lib.write, uintptr(run.marker), uintptr(unsafe.Pointer(&d)), 0, 0)
	if err := result("EventWrite", e); err != nil {
		return fmt.Errorf("etw: flush: %w", err)
	}
	if err := run.control(run.session, controlFlush); err != nil {
		return fmt.Errorf("etw: flush: %w", err)
	}
	select {
	case <-came:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("etw: flush: %w", ctx.Err())
	}
}

func (run *running) reached(mark uint16) {
	run.mu.Lock()
	defer run.mu.Unlock()
	if c, ok := run.waiting[mark]; ok {
		select {
		case c <- struct{}{}:
		default: // the same mark again, from another process
		}
	}
}
