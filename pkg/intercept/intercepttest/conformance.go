package intercepttest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// patience is for what has to happen, on a busy machine.
	patience = 10 * time.Second
	// noTimeout is for tests in which no verdict comes late.
	noTimeout = time.Minute
)

// Conformance tests that a source does what package intercept promises.
func Conformance(t *testing.T, h Harness) {
	if h.DropTime == 0 {
		h.DropTime = 200 * time.Millisecond
	}
	suite := &suite{h: h}
	t.Run("Run", suite.testRun)
	t.Run("RunAgain", suite.testRunAgain)
	t.Run("Actions", suite.testActions)
	t.Run("Info", suite.testInfo)
	t.Run("Permanent", suite.testPermanent)
	t.Run("Burst", suite.testBurst)
	t.Run("SecondVerdict", suite.testSecondVerdict)
	t.Run("VerdictRace", suite.testVerdictRace)
	t.Run("Timeout", suite.testTimeout)
	t.Run("Shutdown", suite.testShutdown)
	t.Run("Update", suite.testUpdate)
}

type suite struct{ h Harness }

// running is a source under test that runs.
type running struct {
	source intercept.Source
	judge  *judge
	stop   func() error // ends Run and returns its error; may be called twice
}

// start runs a new source until the test ends.
func (s *suite) start(t *testing.T, timeout time.Duration) *running {
	t.Helper()
	testutil.NoLeaks(t)
	return s.run(t, s.h.New(t, timeout))
}

func (s *suite) run(t *testing.T, source intercept.Source) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var readied atomic.Int32
	ready, ended := make(chan struct{}), make(chan error, 1)
	j := newJudge()
	go func() {
		ended <- source.Run(ctx, j, func() {
			if readied.Add(1) == 1 {
				close(ready)
			}
		})
	}()
	r := &running{source: source, judge: j}
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run did not return after its context was done")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("got %v; want nil from Run after its context was done", err)
		}
		if n := readied.Load(); n != 1 {
			t.Errorf("got %d calls of ready; want 1", n)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("got %v before ready; want a running source", err)
	case <-time.After(patience):
		t.Fatalf("not ready after %v", patience)
	}
	return r
}

// send sends one packet of f.
func send(t *testing.T, f Flow) {
	t.Helper()
	if err := f.Send(); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// wantFate checks what became of the last packet of f.
func (s *suite) wantFate(t *testing.T, f Flow, want Fate) {
	t.Helper()
	within := patience
	if want == Lost {
		within = s.h.DropTime
	}
	if got := f.Fate(within); got != want {
		t.Errorf("got a packet that was %v; want %v", got, want)
	}
}

// receive waits for a packet that the judge holds.
func receive(t *testing.T, held <-chan packet.Packet) packet.Packet {
	t.Helper()
	select {
	case p := <-held:
		return p
	case <-time.After(patience):
		t.Fatalf("the handler got no packet in %v", patience)
		return nil
	}
}

func wantDecided(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, packet.ErrAlreadyDecided) {
		t.Errorf("got %v; want ErrAlreadyDecided", err)
	}
}

// each runs test for each kind of flow.
func (s *suite) each(t *testing.T, test func(*testing.T, FlowKind)) {
	for _, kind := range s.h.Kinds {
		t.Run(kind.String(), func(t *testing.T) { test(t, kind) })
	}
}

func (s *suite) testRun(t *testing.T) {
	r := s.start(t, noTimeout)
	if err := r.stop(); err != nil {
		t.Errorf("got %v; want nil", err)
	}
}

func (s *suite) testRunAgain(t *testing.T) {
	kind := s.h.Kinds[0]
	testutil.NoLeaks(t)
	source := s.h.New(t, noTimeout)
	for range 2 {
		r := s.run(t, source)
		f := s.h.Flow(t, kind)
		r.judge.add(f.Tuple(), &trial{handle: deciding(verdict.ActionAccept, func(err error) { t.Error(err) })})
		send(t, f)
		s.wantFate(t, f, Passed)
		if err := r.stop(); err != nil {
			t.Errorf("got %v; want nil", err)
		}
	}
}

// testActions checks all ten, by a verdict method and by Lookup.
func (s *suite) testActions(t *testing.T) {
	r := s.start(t, noTimeout)
	s.each(t, func(t *testing.T, kind FlowKind) {
		for a := range verdict.Action(verdict.NumActions) {
			if kind.Direction == packet.Inbound && a.Verdict().Redirects() {
				continue // only what this host sends can be sent elsewhere
			}
			t.Run(a.String(), func(t *testing.T) {
				byMethod, byLookup := s.h.Flow(t, kind), s.h.Flow(t, kind)
				method := r.judge.add(byMethod.Tuple(), &trial{handle: deciding(a, func(err error) { t.Error(err) })})
				lookup := r.judge.add(byLookup.Tuple(), &trial{lookup: a, decided: true})
				send(t, byMethod)
				send(t, byLookup)
				s.wantFate(t, byMethod, s.h.Shows(a, kind))
				s.wantFate(t, byLookup, s.h.Shows(a, kind))
				if looked, handed := method.seen(); looked != 1 || handed != 1 {
					t.Errorf("got %d lookups, %d handed over; want 1, 1", looked, handed)
				}
				if looked, handed := lookup.seen(); looked != 1 || handed != 0 {
					t.Errorf("with a decided connection got %d lookups, %d handed over; want 1, 0", looked, handed)
				}
			})
		}
	})
}

func (s *suite) testInfo(t *testing.T) {
	r := s.start(t, noTimeout)
	s.each(t, func(t *testing.T, kind FlowKind) {
		f := s.h.Flow(t, kind)
		handle, held := holding()
		c := r.judge.add(f.Tuple(), &trial{handle: handle})
		before := time.Now()
		send(t, f)
		p := receive(t, held)
		for name, i := range map[string]packet.Info{"Lookup": c.lastInfo(), "Handle": *p.Info()} {
			if i.Tuple != f.Tuple() || i.Direction != kind.Direction || i.Version != kind.Version {
				t.Errorf("%s: got %v %v, version %d; want %v %v", name, i.Tuple, i.Direction, i.Version, f.Tuple(), kind)
			}
			if i.Length <= i.HeaderLength || i.HeaderLength < 28 {
				t.Errorf("%s: got length %d with %d of headers; want a UDP packet with payload", name, i.Length, i.HeaderLength)
			}
			if i.Seen.Before(before) || i.Seen.After(time.Now()) {
				t.Errorf("%s: got seen at %v; want between %v and now", name, i.Seen, before)
			}
		}
		checkPayload(t, p, kind)
		if p.InfoOnly() || p.ExpectsInfo() || p.FastTrackedByDriver() {
			t.Error("got a packet that is info-only, expects info or was fast-tracked; want a plain one")
		}
		if err := p.Accept(); err != nil {
			t.Error(err)
		}
		s.wantFate(t, f, Passed)
	})
}

func checkPayload(t *testing.T, p packet.Packet, kind FlowKind) {
	t.Helper()
	b, err := p.Payload()
	if err != nil {
		t.Errorf("payload: %v", err)
		return
	}
	var i packet.Info
	if err := packet.Decode(b, kind.Direction, &i); err != nil || i.Tuple != p.Info().Tuple {
		t.Errorf("got a payload of %v (%v); want %v", i.Tuple, err, p.Info().Tuple)
	}
}

// testPermanent checks what the handler sees after a verdict.
func (s *suite) testPermanent(t *testing.T) {
	r := s.start(t, noTimeout)
	s.each(t, func(t *testing.T, kind FlowKind) {
		for a := range verdict.Action(verdict.NumActions) {
			if a.Verdict().Redirects() {
				continue // where the second packet shows up is for the backend's own tests
			}
			t.Run(a.String(), func(t *testing.T) {
				f := s.h.Flow(t, kind)
				c := r.judge.add(f.Tuple(), &trial{handle: deciding(a, func(err error) { t.Error(err) })})
				want := 1
				for n := 1; n <= 2; n++ {
					send(t, f)
					s.wantFate(t, f, s.h.Shows(a, kind))
					if looked, _ := c.seen(); looked != want {
						t.Errorf("after packet %d got %d lookups; want %d", n, looked, want)
					}
					if !a.Permanent() || s.h.Memory == Forgets {
						want++
					}
				}
			})
		}
	})
}

// testBurst checks that no packet is lost or seen twice when many come at once.
func (s *suite) testBurst(t *testing.T) {
	const flows, packets = 20, 10
	r := s.start(t, noTimeout)
	s.each(t, func(t *testing.T, kind FlowKind) {
		var all []Flow
		var trials []*trial
		var decided atomic.Int32
		for range flows {
			f := s.h.Flow(t, kind)
			all = append(all, f)
			trials = append(trials, r.judge.add(f.Tuple(), &trial{handle: func(p packet.Packet) {
				go func() {
					deciding(verdict.ActionAccept, func(err error) { t.Error(err) })(p)
					decided.Add(1)
				}()
			}}))
		}
		for range packets {
			for _, f := range all {
				send(t, f)
			}
		}
		deadline := time.Now().Add(patience)
		for i, f := range all {
			s.wantFate(t, f, Passed)
			looked, handed := trials[i].seen()
			for (looked < packets || handed < packets) && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
				looked, handed = trials[i].seen()
			}
			if looked != packets || handed != packets {
				t.Errorf("flow %d: got %d lookups, %d handed over; want %d each", i, looked, handed, packets)
			}
		}
		for decided.Load() < flows*packets {
			if time.Now().After(deadline) {
				t.Fatalf("got verdicts for %d packets; want %d", decided.Load(), flows*packets)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func (s *suite) testSecondVerdict(t *testing.T) {
	kind := s.h.Kinds[0]
	r := s.start(t, noTimeout)
	f := s.h.Flow(t, kind)
	handle, held := holding()
	r.judge.add(f.Tuple(), &trial{handle: handle})
	send(t, f)
	p := receive(t, held)
	if err := p.Accept(); err != nil {
		t.Fatal(err)
	}
	for a := range verdict.Action(verdict.NumActions) {
		wantDecided(t, packet.Apply(p, a, 0))
	}
	s.wantFate(t, f, Passed)
}

// testVerdictRace lets many goroutines decide about each of a few packets.
func (s *suite) testVerdictRace(t *testing.T) {
	const packets, racers = 20, 8
	r := s.start(t, noTimeout)
	f := s.h.Flow(t, s.h.Kinds[0])
	handle, held := holding()
	r.judge.add(f.Tuple(), &trial{handle: handle})
	for range packets {
		send(t, f)
		p := receive(t, held)
		var won atomic.Int32
		var wait sync.WaitGroup
		for range racers {
			wait.Go(func() {
				err := p.Accept()
				if err == nil {
					won.Add(1)
					return
				}
				wantDecided(t, err)
			})
		}
		wait.Wait()
		if n := won.Load(); n != 1 {
			t.Errorf("got %d verdicts that took effect; want 1", n)
		}
		s.wantFate(t, f, Passed)
	}
}

// testTimeout checks the default for a handler that is too slow.
func (s *suite) testTimeout(t *testing.T) {
	const timeout = 200 * time.Millisecond
	r := s.start(t, timeout)
	s.each(t, func(t *testing.T, kind FlowKind) {
		for wait := 2 * timeout; !s.timesOut(t, r, kind, wait); wait *= 2 {
			if wait > patience {
				t.Fatalf("no default within %v; want it after %v", wait, timeout)
			}
		}
	})
}

// timesOut sends a packet that nobody judges and checks that it gets the default. That a packet is lost shows nowhere: whether the
// default has come tells the next verdict, which is refused; it reports false if wait was too short for that.
func (s *suite) timesOut(t *testing.T, r *running, kind FlowKind, wait time.Duration) bool {
	t.Helper()
	f := s.h.Flow(t, kind)
	handle, held := holding()
	r.judge.add(f.Tuple(), &trial{handle: handle})
	send(t, f)
	p := receive(t, held)
	want := s.h.Shows(s.h.Default, kind)
	if want == Lost {
		time.Sleep(wait)
	} else {
		s.wantFate(t, f, want)
	}
	err := p.PermanentAccept()
	if err == nil && want == Lost {
		s.wantFate(t, f, Passed)
		return false
	}
	wantDecided(t, err)
	s.wantFate(t, f, want)
	return true
}

// testShutdown checks that packets which wait when Run ends get the default.
func (s *suite) testShutdown(t *testing.T) {
	for _, kind := range s.h.Kinds {
		t.Run(kind.String(), func(t *testing.T) {
			r := s.start(t, noTimeout)
			handle, held := holding()
			var flows []Flow
			for range 3 {
				f := s.h.Flow(t, kind)
				flows = append(flows, f)
				r.judge.add(f.Tuple(), &trial{handle: handle})
				send(t, f)
			}
			var packets []packet.Packet
			for range flows {
				packets = append(packets, receive(t, held))
			}
			if err := r.stop(); err != nil {
				t.Fatalf("got %v; want nil", err)
			}
			for i, p := range packets {
				wantDecided(t, p.Accept())
				s.wantFate(t, flows[i], s.h.Shows(s.h.Default, kind))
			}
		})
	}
}

// testUpdate checks what a source that remembers can be told later.
func (s *suite) testUpdate(t *testing.T) {
	if s.h.Memory == Forgets {
		t.Skip("this source does not remember permanent verdicts")
	}
	r := s.start(t, noTimeout)
	u, ok := r.source.(intercept.Updater)
	if !ok {
		t.Fatalf("%T remembers permanent verdicts but is no intercept.Updater", r.source)
	}
	s.each(t, func(t *testing.T, kind FlowKind) {
		for name, tell := range map[string]func(packet.Tuple) error{
			"Update to drop":   func(tu packet.Tuple) error { return u.Update(tu, verdict.ActionPermanentDrop, 0) },
			"Update to accept": func(tu packet.Tuple) error { return u.Update(tu, verdict.ActionPermanentAccept, 0) },
			"Update to ask":    func(tu packet.Tuple) error { return u.Update(tu, verdict.ActionAccept, 0) },
			"Forget":           u.Forget,
			"ForgetAll":        func(packet.Tuple) error { return u.ForgetAll() },
		} {
			t.Run(name, func(t *testing.T) {
				f := s.h.Flow(t, kind)
				c := r.judge.add(f.Tuple(), &trial{handle: deciding(verdict.ActionPermanentAccept, func(err error) { t.Error(err) })})
				send(t, f)
				s.wantFate(t, f, Passed)
				if err := tell(f.Tuple()); err != nil {
					t.Fatal(err)
				}
				send(t, f)
				want, asked := Passed, 2
				switch name {
				case "Update to drop":
					want, asked = s.h.Shows(verdict.ActionPermanentDrop, kind), 1
				case "Update to accept":
					asked = 1
				}
				s.wantFate(t, f, want)
				if looked, _ := c.seen(); looked != asked {
					t.Errorf("got %d lookups; want %d", looked, asked)
				}
			})
		}
	})
}
