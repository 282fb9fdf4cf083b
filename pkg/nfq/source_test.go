package nfq

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// diary notes the order of events, by any goroutine.
type diary struct {
	mu     sync.Mutex // guards events
	events []string
}

func (d *diary) note(e string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events)
}

// fakePort is a port whose reader waits for stop, or breaks.
type fakePort struct {
	*diary
	discard
	stopped chan struct{}
	broken  chan error
}

func newFakePort(d *diary) *fakePort {
	return &fakePort{diary: d, stopped: make(chan struct{}), broken: make(chan error, 1)}
}

func (p *fakePort) read(*queue) error {
	select {
	case <-p.stopped:
		p.note("reader ended")
		return nil
	case err := <-p.broken:
		return err
	}
}

func (p *fakePort) stop() error        { close(p.stopped); return nil }
func (p *fakePort) drops() kernelDrops { return kernelDrops{kernel: 3, user: 4} }
func (p *fakePort) close() error       { p.note("socket closed"); return nil }

// fakeHost is a hostControl that only notes.
type fakeHost struct {
	*diary
	prepareErr, upErr, watchErr error
}

func (h *fakeHost) prepare() error { h.note("prepare"); return h.prepareErr }

func (h *fakeHost) up(ctx context.Context) error {
	h.note("up")
	return errors.Join(h.upErr, ctx.Err())
}

func (h *fakeHost) watch(ctx context.Context, _ func()) error {
	if h.watchErr == nil {
		<-ctx.Done()
	}
	return h.watchErr
}

func (h *fakeHost) down(ctx context.Context) error { h.note("down"); return ctx.Err() }

func (h *fakeHost) update(_ packet.Tuple, mark uint32) error {
	h.note("update " + verdict.Action(mark-1700).String())
	return nil
}
func (h *fakeHost) origin(packet.Tuple) (packet.Direction, bool) { return packet.Inbound, true }
func (h *fakeHost) allowRoutes(map[uint8]string) error           { return nil }
func (h *fakeHost) followCloses(Closes) error                    { return nil }
func (h *fakeHost) useNameserver(bool, bool) error               { return nil }
func (h *fakeHost) measure(packet.Tuple) (intercept.Measure, bool, error) {
	return intercept.Measure{SentBytes: 7}, true, nil
}
func (h *fakeHost) lostEnds() uint64            { return 5 }
func (h *fakeHost) forget(packet.Tuple) error   { h.note("forget"); return nil }
func (h *fakeHost) forgetAll() error            { h.note("forget all"); return nil }
func (h *fakeHost) setLabel(packet.Tuple) error { h.note("label"); return nil }
func (h *fakeHost) remember(packet.Tuple, packet.Direction, uint32, uint8) error {
	h.note("remember")
	return nil
}

// begin makes a session of fakes and lets the source enter it.
func begin(t *testing.T, host hostControl, p *fakePort) (*Source, *session) {
	t.Helper()
	s := testSource(t, Config{})
	ses := &session{cfg: &s.cfg, host: host}
	ses.add(s.newQueue(1, handler{}, host, p), p)
	if err := s.enter(ses); err != nil {
		t.Fatal(err)
	}
	return s, ses
}

func TestRunUndoesInReverse(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name  string
		late  bool // once it is ready; otherwise the order is anybody's guess
		spoil func(*fakeHost, *fakePort, context.CancelFunc)
		want  error
		order []string
	}{
		{"done", true, func(_ *fakeHost, _ *fakePort, cancel context.CancelFunc) { cancel() }, nil,
			[]string{"prepare", "up", "ready", "reader ended", "socket closed", "down"}},
		{"reader breaks", true, func(_ *fakeHost, p *fakePort, _ context.CancelFunc) { p.broken <- broken }, broken,
			[]string{"prepare", "up", "ready", "socket closed", "down"}},
		{"watch breaks", false, func(h *fakeHost, _ *fakePort, _ context.CancelFunc) { h.watchErr = broken }, broken,
			[]string{"prepare", "up", "ready", "reader ended", "socket closed", "down"}},
		{"rules do not load", false, func(h *fakeHost, _ *fakePort, _ context.CancelFunc) { h.upErr = broken }, broken,
			[]string{"prepare", "up", "reader ended", "socket closed"}},
		{"connections cannot be known", false, func(h *fakeHost, _ *fakePort, _ context.CancelFunc) { h.prepareErr = broken }, broken,
			[]string{"prepare", "socket closed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			d := &diary{}
			host, p := &fakeHost{diary: d}, newFakePort(d)
			s, ses := begin(t, host, p)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if !test.late {
				test.spoil(host, p, cancel)
			}
			err := ses.run(ctx, func() {
				d.note("ready")
				if test.late {
					test.spoil(host, p, cancel)
				}
			})
			s.leave(ses)
			if !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v; want %v", err, test.want)
			}
			if got := d.read(); !slices.Equal(got, test.order) {
				t.Errorf("got %q; want %q", got, test.order)
			}
			if st := s.Stats(); st.KernelDrops != 3 || st.UserDrops != 4 || st.LostEnds != 5 {
				t.Errorf("got drops %d, %d, %d; want those of the last run, 3, 4, 5", st.KernelDrops, st.UserDrops, st.LostEnds)
			}
		})
	}
}

// mortalPort counts nothing once it is closed, and must not be asked while it closes, like one that reads a file.
type mortalPort struct {
	*fakePort
	dead bool // not guarded on purpose: the race detector shall see who asks
}

func (p *mortalPort) drops() kernelDrops {
	if p.dead {
		return kernelDrops{}
	}
	return p.fakePort.drops()
}

func (p *mortalPort) close() error {
	p.dead = true
	return p.fakePort.close()
}

// TestStatsWhileRunEnds: what was counted stays, whenever somebody asks.
func TestStatsWhileRunEnds(t *testing.T) {
	testutil.NoLeaks(t)
	d := &diary{}
	s := testSource(t, Config{})
	p := &mortalPort{fakePort: newFakePort(d)}
	ses := &session{cfg: &s.cfg, host: &fakeHost{diary: d}}
	ses.add(s.newQueue(1, handler{}, ses.host, p), p)
	if err := s.enter(ses); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, asked := make(chan struct{}), make(chan uint64, 1)
	go func() {
		least := s.Stats().KernelDrops
		cancel()
		for over := false; !over; {
			select {
			case <-ended:
				over = true
			default:
			}
			least = min(least, s.Stats().KernelDrops)
		}
		asked <- least
	}()
	err := ses.run(ctx, nil)
	s.leave(ses)
	close(ended)
	if err != nil {
		t.Error(err)
	}
	if least := <-asked; least != 3 {
		t.Errorf("got %d drops at some time; want always 3", least)
	}
}

// TestRunReadsWhatItCanPlace: the packets of older connections come as soon as
// somebody reads.
func TestRunReadsWhatItCanPlace(t *testing.T) {
	testutil.NoLeaks(t)
	d := &diary{}
	s := testSource(t, Config{})
	p := &eagerPort{fakePort: newFakePort(d)}
	ses := &session{cfg: &s.cfg, host: &fakeHost{diary: d}}
	ses.add(s.newQueue(1, handler{}, ses.host, p), p)
	ctx, cancel := context.WithCancel(context.Background())
	if err := ses.run(ctx, cancel); err != nil {
		t.Error(err)
	}
	if got := d.read(); slices.Index(got, "prepare") != 0 || slices.Index(got, "reads") < 1 {
		t.Errorf("got %q; want the reader to begin after prepare", got)
	}
}

// eagerPort notes when its reader begins.
type eagerPort struct{ *fakePort }

func (p *eagerPort) read(q *queue) error {
	p.note("reads")
	return p.fakePort.read(q)
}

func TestRunStoppedWhileRulesLoad(t *testing.T) {
	testutil.NoLeaks(t)
	d := &diary{}
	_, ses := begin(t, &fakeHost{diary: d}, newFakePort(d))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ses.run(ctx, func() { t.Error("ready was called") }); err != nil {
		t.Errorf("got %v; want nil", err)
	}
}

func TestRunTwice(t *testing.T) {
	d := &diary{}
	s, ses := begin(t, nil, newFakePort(d))
	if err := s.enter(ses); err == nil {
		t.Error("got nil for a second Run; want an error")
	}
	s.leave(ses)
	if err := s.enter(ses); err != nil {
		t.Errorf("got %v after the first Run ended; want nil", err)
	}
}

func TestSweepGivesTheDefault(t *testing.T) {
	testutil.NoLeaks(t)
	d := &diary{}
	p := newFakePort(d)
	s, ses := begin(t, nil, p)
	s.cfg.Timeout = 20 * time.Millisecond
	held := make(chan packet.Packet, 1)
	ses.queues[0].handler = handler{handle: func(p packet.Packet) { held <- p }}
	ses.queues[0].receive(packetMessage(1, udp4(1)), time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- ses.run(ctx, nil) }()
	for deadline := time.Now().Add(5 * time.Second); s.Stats().Timeouts == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := (<-held).Accept(); !errors.Is(err, packet.ErrAlreadyDecided) {
		t.Errorf("got %v; want ErrAlreadyDecided", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSendFailureEndsRun: a verdict that cannot be sent must not be forgotten.
func TestSendFailureEndsRun(t *testing.T) {
	k := newKernel(t)
	var p packet.Packet
	_, q := testQueue(t, Config{}, handler{handle: func(got packet.Packet) { p = got }}, k)
	var failed error
	q.fail = func(err error) { failed = err }
	k.queue(1)
	q.receive(packetMessage(1, udp4(1)), time.Now())
	k.err = errors.New("no memory")
	if err := p.Accept(); !errors.Is(err, k.err) || !errors.Is(failed, k.err) {
		t.Errorf("got %v, failed with %v; want both to be %v", err, failed, k.err)
	}
}

func TestUpdater(t *testing.T) {
	d := &diary{}
	host := &fakeHost{diary: d}
	s, ses := begin(t, host, newFakePort(d))
	tuple := infoOf(packet.TCP, "10.0.0.1:1", "10.0.0.2:2", packet.Outbound, 0).Tuple
	for _, err := range []error{
		s.Update(tuple, verdict.ActionAccept, 0),
		s.Update(tuple, verdict.ActionRerouteToTunnel, 0),
		s.Forget(tuple),
		s.ForgetAll(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if got, want := d.read(), []string{"forget", "forget", "forget", "forget all"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	s.leave(ses)
	for _, err := range []error{s.Update(tuple, verdict.ActionDrop, 0), s.Forget(tuple), s.ForgetAll()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v when Run has ended; want ErrClosed", err)
		}
	}
	without, _ := begin(t, nil, newFakePort(d))
	if err := without.Forget(tuple); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v without a ruleset; want ErrUnsupported", err)
	}
}

// TestRememberAndLabel checks what a verdict asks of the host.
func TestRememberAndLabel(t *testing.T) {
	d := &diary{}
	s := testSource(t, Config{})
	action := verdict.ActionPermanentDrop
	h := handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) { return action, 0, true }}
	q := s.newQueue(1, h, &fakeHost{diary: d}, discard{})
	q.receive(packetMessage(1, udp4(1)), time.Now())
	action = verdict.ActionPermanentAccept
	q.receive(queued{id: 2, hook: hookLocalOut, mark: 0x6d6f6c65, payload: udp4(2)}.message(), time.Now())
	d.note("flush")
	if err := q.flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := d.read(), []string{"remember", "flush", "label"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"zero", Config{}, true},
		{"whole packets", Config{CopyRange: WholePacket}, true},
		{"copy range too small", Config{CopyRange: 40}, false},
		{"copy range too large", Config{CopyRange: 70000}, false},
		{"negative timeout", Config{Timeout: -1}, false},
		{"short queue", Config{MaxQueueLen: 200}, true},
		{"queue as long as those that may wait", Config{MaxQueueLen: 100, MaxPending: 100}, false},
		{"plain with our ruleset", Config{Style: StylePlain}, false},
		{"plain without", Config{Style: StylePlain, SkipRuleset: true}, true},
		{"no such style", Config{Style: 7, SkipRuleset: true}, false},
		{"queue twice", Config{SkipRuleset: true, ReadQueues: []uint16{1, 1}}, false},
		{"queue 0", Config{SkipRuleset: true, ReadQueues: []uint16{0}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.cfg.withDefaults()
			if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrBadConfig) {
				t.Errorf("got %v; want ok: %v", err, test.ok)
			}
			if err == nil && (got.MaxQueueLen < got.MaxPending+64 || got.MaxQueueLen > got.MaxPending+65535 || len(got.ReadQueues) == 0) {
				t.Errorf("got %+v; want queues and a queue length", got)
			}
		})
	}
	four, err := Config{Host: HostConfig{Families: IPv4Only}}.withDefaults()
	if err != nil || !slices.Equal(four.ReadQueues, []uint16{17040, 17140}) {
		t.Errorf("got %v, %v; want the IPv4 queues", four.ReadQueues, err)
	}
}
