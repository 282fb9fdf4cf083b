package packet_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// method is a verdict method and the action that it stands for.
type method struct {
	action verdict.Action
	call   func(packet.Verdicter) error
}

func methods() []method {
	return []method{
		{verdict.ActionDrop, packet.Verdicter.Drop},
		{verdict.ActionBlock, packet.Verdicter.Block},
		{verdict.ActionAccept, packet.Verdicter.Accept},
		{verdict.ActionPermanentDrop, packet.Verdicter.PermanentDrop},
		{verdict.ActionPermanentBlock, packet.Verdicter.PermanentBlock},
		{verdict.ActionPermanentAccept, packet.Verdicter.PermanentAccept},
		{verdict.ActionPermanentAcceptFinal, packet.Verdicter.PermanentAcceptFinal},
		{verdict.ActionRerouteToNameserver, packet.Verdicter.RerouteToNameserver},
		{verdict.ActionRerouteToTunnel, packet.Verdicter.RerouteToTunnel},
		{verdict.ActionRerouteToSplitTun, packet.Verdicter.RerouteToSplitTun},
	}
}

// issued is what an issuer was told.
type issued struct {
	id     uint64
	action verdict.Action
	route  uint8
}

// recorder is an issuer that remembers, and fails if err is set.
type recorder struct {
	mu   sync.Mutex // guards seen
	seen []issued
	err  error
}

func (r *recorder) Issue(id uint64, action verdict.Action, route uint8) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, issued{id, action, route})
	return r.err
}

func (r *recorder) only(tb testing.TB) issued {
	tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) != 1 {
		tb.Fatalf("issued %v; want one verdict", r.seen)
	}
	return r.seen[0]
}

func TestOnceMethods(t *testing.T) {
	if len(methods()) != verdict.NumActions {
		t.Fatalf("%d methods; want %d", len(methods()), verdict.NumActions)
	}
	for _, m := range methods() {
		t.Run(m.action.String(), func(t *testing.T) {
			var r recorder
			var o packet.Once
			o.Init(&r, 1<<63|7)
			if a, ok := o.Decided(); ok {
				t.Errorf("decided as %v before the verdict", a)
			}
			if err := m.call(&o); err != nil {
				t.Fatal(err)
			}
			if got, want := r.only(t), (issued{1<<63 | 7, m.action, 0}); got != want {
				t.Errorf("issued %v; want %v", got, want)
			}
			if a, ok := o.Decided(); !ok || a != m.action {
				t.Errorf("decided %v, %t; want %v", a, ok, m.action)
			}
			for _, later := range methods() {
				if err := later.call(&o); !errors.Is(err, packet.ErrAlreadyDecided) {
					t.Errorf("%v afterwards: got %v; want %v", later.action, err, packet.ErrAlreadyDecided)
				}
			}
			if got := r.only(t).action; got != m.action {
				t.Errorf("issued %v; want %v", got, m.action)
			}
		})
	}
}

func TestOnceIsOnce(t *testing.T) {
	const goroutines, rounds = 100, 200
	for range rounds {
		var r recorder
		var o packet.Once
		o.Init(&r, 1)
		var won, lost atomic.Int32
		var winner atomic.Uint32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for n := range goroutines {
			m := methods()[n%verdict.NumActions]
			wg.Go(func() {
				<-start
				switch err := m.call(&o); {
				case err == nil:
					won.Add(1)
					winner.Store(uint32(m.action))
				case errors.Is(err, packet.ErrAlreadyDecided):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if won.Load() != 1 || lost.Load() != goroutines-1 {
			t.Fatalf("%d calls took effect and %d did not; want 1, %d", won.Load(), lost.Load(), goroutines-1)
		}
		if got := r.only(t).action; uint32(got) != winner.Load() {
			t.Fatalf("issued %v; want that of the call that returned nil", got)
		}
	}
}

func TestOnceInfoOnly(t *testing.T) {
	for _, init := range []func(*packet.Once){
		func(o *packet.Once) { o.InitInfoOnly() },
		func(o *packet.Once) { o.Init(&recorder{err: errors.New("issued")}, 1); o.InitInfoOnly() },
	} {
		var o packet.Once
		init(&o)
		if !o.InfoOnly() {
			t.Error("InfoOnly is false")
		}
		for _, m := range methods() {
			if err := m.call(&o); !errors.Is(err, packet.ErrInfoOnlyPacket) {
				t.Errorf("%v: got %v; want %v", m.action, err, packet.ErrInfoOnlyPacket)
			}
		}
		if err := o.Take(verdict.ActionAccept, 3); !errors.Is(err, packet.ErrInfoOnlyPacket) {
			t.Errorf("Take: got %v; want %v", err, packet.ErrInfoOnlyPacket)
		}
		if a, ok := o.Decided(); ok {
			t.Errorf("decided as %v; want nothing", a)
		}
	}
}

func TestOnceIssuerError(t *testing.T) {
	closed := errors.New("queue closed")
	r := recorder{err: closed}
	var o packet.Once
	o.Init(&r, 1)
	if err := o.Accept(); !errors.Is(err, closed) {
		t.Errorf("got %v; want %v wrapped", err, closed)
	}
	// whether the kernel took it is unknown, so nothing may follow
	if err := o.Drop(); !errors.Is(err, packet.ErrAlreadyDecided) {
		t.Errorf("got %v; want %v", err, packet.ErrAlreadyDecided)
	}
	if got := r.only(t).action; got != verdict.ActionAccept {
		t.Errorf("issued %v; want Accept", got)
	}
}

func TestOnceRoute(t *testing.T) {
	for _, m := range methods() {
		var r recorder
		var o packet.Once
		o.Init(&r, 1)
		o.SetRoute(255)
		if err := m.call(&o); err != nil {
			t.Fatal(err)
		}
		want := uint8(0)
		if m.action == verdict.ActionRerouteToSplitTun {
			want = 255
		}
		if got := r.only(t).route; got != want {
			t.Errorf("%v: route %d; want %d", m.action, got, want)
		}
	}
}

func TestOnceTakeUnknownAction(t *testing.T) {
	for _, a := range []verdict.Action{verdict.NumActions, 255} {
		var r recorder
		var o packet.Once
		o.Init(&r, 1)
		if err := o.Take(a, 0); err != nil {
			t.Fatal(err)
		}
		if got := r.only(t).action; got != verdict.ActionDrop {
			t.Errorf("%v: issued %v; want Drop", a, got)
		}
	}
}

// A backend's pool gives the same packet out again.
func TestOnceReuse(t *testing.T) {
	var r recorder
	var o packet.Once
	o.Init(&r, 1)
	o.SetRoute(3)
	for id := range uint64(3) {
		o.Init(&r, id)
		if a, ok := o.Decided(); ok {
			t.Fatalf("decided as %v after Init", a)
		}
		if err := o.RerouteToSplitTun(); err != nil {
			t.Fatal(err)
		}
		if got, want := r.seen[id], (issued{id, verdict.ActionRerouteToSplitTun, 0}); got != want {
			t.Errorf("issued %v; want %v", got, want)
		}
	}
	o.InitInfoOnly()
	o.Init(&r, 4)
	if o.InfoOnly() {
		t.Error("info-only after Init")
	}
}

func TestOnceWithoutInit(t *testing.T) {
	var o packet.Once
	for _, m := range methods() {
		if err := m.call(&o); err == nil {
			t.Errorf("%v: no error without an issuer", m.action)
		}
	}
	if a, ok := o.Decided(); ok {
		t.Errorf("decided as %v; want nothing", a)
	}
}

func TestOnceAllocs(t *testing.T) {
	var o packet.Once
	var i discard
	if got := testing.AllocsPerRun(100, func() {
		o.Init(&i, 1)
		if o.Accept() != nil || o.Drop() == nil {
			t.Error("not once")
		}
	}); got != 0 {
		t.Errorf("%v allocations; want 0", got)
	}
}

// discard is an issuer that does nothing.
type discard struct{}

func (*discard) Issue(uint64, verdict.Action, uint8) error { return nil }

// onced is a packet built on Once.
type onced struct {
	packet.Once
	info packet.Info
}

func (p *onced) Info() *packet.Info        { return &p.info }
func (p *onced) Payload() ([]byte, error)  { return nil, packet.ErrNoPayload }
func (p *onced) FastTrackedByDriver() bool { return false }
func (p *onced) ExpectsInfo() bool         { return false }

// plain is a packet of a backend that has its own verdict methods and no Take.
type plain struct{ p *onced }

func (p plain) Accept() error               { return p.p.Accept() }
func (p plain) Block() error                { return p.p.Block() }
func (p plain) Drop() error                 { return p.p.Drop() }
func (p plain) PermanentAccept() error      { return p.p.PermanentAccept() }
func (p plain) PermanentAcceptFinal() error { return p.p.PermanentAcceptFinal() }
func (p plain) PermanentBlock() error       { return p.p.PermanentBlock() }
func (p plain) PermanentDrop() error        { return p.p.PermanentDrop() }
func (p plain) RerouteToNameserver() error  { return p.p.RerouteToNameserver() }
func (p plain) RerouteToTunnel() error      { return p.p.RerouteToTunnel() }
func (p plain) RerouteToSplitTun() error    { return p.p.RerouteToSplitTun() }
func (p plain) Info() *packet.Info          { return p.p.Info() }
func (p plain) Payload() ([]byte, error)    { return p.p.Payload() }
func (p plain) FastTrackedByDriver() bool   { return false }
func (p plain) InfoOnly() bool              { return p.p.InfoOnly() }
func (p plain) ExpectsInfo() bool           { return false }

func TestApply(t *testing.T) {
	for action := range verdict.Action(verdict.NumActions + 2) {
		for _, kind := range []struct {
			name string
			of   func(*onced) packet.Packet
		}{
			{"with Take", func(p *onced) packet.Packet { return p }},
			{"without Take", func(p *onced) packet.Packet { return plain{p} }},
		} {
			t.Run(fmt.Sprint(action, " ", kind.name), func(t *testing.T) {
				want := issued{7, action, 0}
				if action >= verdict.NumActions {
					want.action = verdict.ActionDrop
				}
				var r recorder
				var p onced
				p.Init(&r, 7)
				if err := packet.Apply(kind.of(&p), action, 0); err != nil {
					t.Fatal(err)
				}
				if got := r.only(t); got != want {
					t.Errorf("issued %v; want %v", got, want)
				}
				if err := packet.Apply(kind.of(&p), action, 0); !errors.Is(err, packet.ErrAlreadyDecided) {
					t.Errorf("again: got %v; want %v", err, packet.ErrAlreadyDecided)
				}
				p.InitInfoOnly()
				if err := packet.Apply(kind.of(&p), action, 0); !errors.Is(err, packet.ErrInfoOnlyPacket) {
					t.Errorf("info only: got %v; want %v", err, packet.ErrInfoOnlyPacket)
				}
			})
		}
	}
}

func TestApplyRoute(t *testing.T) {
	var r recorder
	var p onced
	p.Init(&r, 7)
	if err := packet.Apply(&p, verdict.ActionRerouteToSplitTun, 3); err != nil {
		t.Fatal(err)
	}
	if got, want := r.only(t), (issued{7, verdict.ActionRerouteToSplitTun, 3}); got != want {
		t.Errorf("issued %v; want %v", got, want)
	}
}

// Without Take there is one route: another one must not become the first.
func TestApplyRouteWithoutTake(t *testing.T) {
	var r recorder
	var p onced
	p.Init(&r, 7)
	if err := packet.Apply(plain{&p}, verdict.ActionRerouteToSplitTun, 3); err == nil {
		t.Error("no error for a route that cannot be taken")
	}
	if got := r.only(t).action; got != verdict.ActionDrop {
		t.Errorf("issued %v; want Drop", got)
	}
	r = recorder{}
	p.Init(&r, 8)
	if err := packet.Apply(plain{&p}, verdict.ActionAccept, 3); err != nil {
		t.Errorf("accept with a route that does not matter: %v", err)
	}
	if got := r.only(t).action; got != verdict.ActionAccept {
		t.Errorf("issued %v; want Accept", got)
	}
}

func ExampleApply() {
	var p onced
	p.Init(&recorder{}, 1)
	d := verdict.Decision{Verdict: verdict.Block, Scope: verdict.ScopePermanent}
	fmt.Println(packet.Apply(&p, d.Action(), 0))
	fmt.Println(packet.Apply(&p, verdict.ActionAccept, 0))
	// Output:
	// <nil>
	// Accept: packet: verdict already issued
}

// A backend embeds Once and writes Issue.
func ExampleOnce() {
	type queued struct{ packet.Once }
	var p queued
	p.Init(printer{}, 42)
	p.SetRoute(1)
	fmt.Println(p.RerouteToSplitTun())
	fmt.Println(p.Accept())
	// Output:
	// packet 42: RerouteToSplitTun by route 1
	// <nil>
	// packet: verdict already issued
}

type printer struct{}

func (printer) Issue(id uint64, action verdict.Action, route uint8) error {
	_, err := fmt.Printf("packet %d: %v by route %d\n", id, action, route)
	return err
}
