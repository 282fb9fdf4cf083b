package firewall_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// meteredSource is a source whose kernel counts.
type meteredSource struct {
	*source
	mu    sync.Mutex // guards what follows
	known map[packet.Tuple]intercept.Measure
	asked int
}

// Measure implements intercept.Meter.
func (s *meteredSource) Measure(t packet.Tuple) (intercept.Measure, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	m, ok := s.known[t]
	return m, ok, nil
}

func (s *meteredSource) set(t packet.Tuple, m intercept.Measure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[t] = m
}

func (s *meteredSource) forget(t packet.Tuple) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, t)
}

func (s *meteredSource) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func startMetered(t *testing.T, edit func(c *firewall.Config)) (*rig, *meteredSource) {
	t.Helper()
	src := &meteredSource{source: newSource(intercepttest.Config{}), known: make(map[packet.Tuple]intercept.Measure)}
	r := startOn(t, src.source, func(c *firewall.Config) {
		c.Source = src
		if edit != nil {
			edit(c)
		}
	})
	return r, src
}

// A UDP connection ends when the kernel would forget it, and not when it does.
func TestUDPTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := startMetered(t, nil)
		i := out(packet.UDP, 1, faraway)
		src.set(i.Tuple, intercept.Measure{Left: 29 * time.Second, SentBytes: 60})
		r.want(i, verdict.ActionPermanentAccept)
		time.Sleep(20 * time.Second)
		src.set(i.Tuple, intercept.Measure{Left: 25 * time.Second, SentBytes: 90}) // something was sent 5 s ago
		time.Sleep(20 * time.Second)
		if r.gone(i.Tuple) {
			t.Fatal("ended although something was sent")
		}
		src.forget(i.Tuple)
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if !r.gone(i.Tuple) {
			t.Error("still there after its timeout")
		}
	})
}

// Figures of TCP connections are asked for often while they grow, ever less often while they do not, and not while others tell them.
func TestMeasuringTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := startMetered(t, nil)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		for n := range uint64(10) {
			src.set(i.Tuple, intercept.Measure{ReceivedBytes: 1000 * (n + 1), SentBytes: n + 1})
			time.Sleep(time.Second + 200*time.Millisecond)
			if s := r.store.Get(i.Tuple).Snapshot(); s.ReceivedBytes < 1000*n/2 {
				t.Fatalf("after %d s: got %d bytes", n+1, s.ReceivedBytes)
			}
		}
		before := src.count()
		time.Sleep(time.Hour)
		if n := src.count() - before; n > 30 {
			t.Errorf("asked %d times in an idle hour; want few", n)
		}
		for n := range 120 {
			var us []intercept.Usage // at times nothing is transferred, and that is told
			if n%30 == 0 {
				us = append(us, intercept.Usage{Tuple: i.Tuple, ReceivedBytes: 1})
			}
			if err := r.src.ReportUsage(us...); err != nil {
				t.Fatal(err)
			}
			before = src.count()
			time.Sleep(time.Second)
		}
		if n := src.count() - before; n != 0 {
			t.Errorf("asked %d times while others tell", n)
		}
	})
}

// An end that is certain ends a connection of any age, unless it is about the one before.
func TestCertainEnd(t *testing.T) {
	for _, permanent := range []firewall.Permanence{firewall.PermanentWhereSafe, firewall.NeverPermanent} {
		bubble(t, fmt.Sprint(permanent), func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.Permanent = permanent })
			i := out(packet.TCP, 1, faraway)
			r.fate(i)
			synctest.Wait()
			c := r.store.Get(i.Tuple)
			began := c.State().Started
			end := func(at time.Time) {
				t.Helper()
				if err := r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: at, Certain: true}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			end(began.Add(-time.Millisecond))
			if !c.State().Live() {
				t.Fatal("ended by the report about the connection before it")
			}
			end(began.Add(time.Millisecond))
			if s := c.State(); s.Live() || !s.Ended.Equal(began.Add(time.Millisecond)) {
				t.Fatalf("got ended %v; want %v", s.Ended, began.Add(time.Millisecond))
			}
			time.Sleep(pastNews)
			if !r.gone(i.Tuple) {
				t.Error("still there")
			}
			page := r.store.Query(connstore.Query{})
			if len(page.Connections) != 1 || !page.Connections[0].Ended.Equal(began.Add(time.Millisecond)) {
				t.Errorf("got %+v; want one, ended when it was", page.Connections)
			}
		})
	}
}

// What was transferred since the last measurement is asked for when a connection is closed, since the kernel tells it minutes later.
func TestLastMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := startMetered(t, nil)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		src.set(i.Tuple, intercept.Measure{ReceivedBytes: 100, SentBytes: 10})
		time.Sleep(5 * time.Second)
		c := r.store.Get(i.Tuple)
		src.set(i.Tuple, intercept.Measure{ReceivedBytes: 900, SentBytes: 90, Closed: true})
		if err := r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: time.Now(), Certain: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := c.Snapshot(); s.Live() || s.ReceivedBytes != 900 || s.SentBytes != 90 {
			t.Errorf("got %+v; want it ended, with all that was transferred", s)
		}
		if f := r.Stats(); f.ReceivedBytes != 900 || f.SentBytes != 90 {
			t.Errorf("got %d and %d bytes altogether", f.ReceivedBytes, f.SentBytes)
		}
	})
}

// The figures of an older connection with the same tuple, which the kernel tells when the new one begins, are not the new one's.
func TestFiguresOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := startMetered(t, nil)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		last := intercept.Usage{Tuple: i.Tuple, ReceivedBytes: 5000, Kind: intercept.UsageLastSum}
		if err := r.src.ReportUsage(last); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := r.store.Get(i.Tuple).Snapshot(); s.ReceivedBytes != 0 {
			t.Errorf("got %d bytes of another connection", s.ReceivedBytes)
		}
	})
}

// A TCP connection whose end was not told is over when the kernel has not known it twice.
func TestLostEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := startMetered(t, nil)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		src.set(i.Tuple, intercept.Measure{SentBytes: 10})
		time.Sleep(5 * time.Second)
		src.forget(i.Tuple)
		time.Sleep(2 * slowest)
		synctest.Wait()
		if !r.gone(i.Tuple) {
			t.Error("still there")
		}
	})
}

// slowest is how long an idle connection is not asked about.
const slowest = 5 * time.Minute

// What the kernel may not have seen end is forgotten, so that nobody goes on with what was decided for it.
func TestAbortedEnd(t *testing.T) {
	for name, aborted := range map[string]bool{"aborted": true, "closed": false} {
		bubble(t, name, func(t *testing.T) {
			r := start(t, nil)
			i := out(packet.TCP, 1, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			if err := r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: time.Now(), Certain: true, Aborted: aborted}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want := 0
			if aborted {
				want = 1
			}
			r.wantCalls(intercepttest.OpForget, want)
		})
	}
}

// Many connections that begin and end do not pile up, and those that go on are measured in time.
func TestManyShortConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := startMetered(t, nil)
		for n := range 5000 {
			i := out(packet.TCP, uint16(1000+n), faraway)
			r.want(i, verdict.ActionPermanentAccept)
			if err := r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: time.Now(), Certain: true}); err != nil {
				t.Fatal(err)
			}
		}
		lasting := out(packet.TCP, 1, faraway)
		r.want(lasting, verdict.ActionPermanentAccept)
		src.set(lasting.Tuple, intercept.Measure{ReceivedBytes: 77})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if s := r.store.Get(lasting.Tuple).Snapshot(); s.ReceivedBytes != 77 {
			t.Errorf("got %d bytes; want the one that goes on measured", s.ReceivedBytes)
		}
	})
}

// A short connection's end that may be another's is asked about, and need not wait.
func TestDoubtfulEndIsAskedAbout(t *testing.T) {
	for name, closed := range map[string]bool{"closed": true, "goes on": false} {
		bubble(t, name, func(t *testing.T) {
			r, src := startMetered(t, nil)
			i := out(packet.TCP, 1, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			src.set(i.Tuple, intercept.Measure{SentBytes: 99, Closed: closed})
			r.src.track(i.Tuple, packet.Outbound)
			if err := r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: time.Now()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := r.gone(i.Tuple); got != closed {
				t.Errorf("ended: %t; want %t", got, closed)
			}
		})
	}
}

// What a forged RST has closed goes on with the next data.
func TestForgedClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.Permanent = firewall.NeverPermanent })
		syn := out(packet.TCP, 1, faraway)
		r.want(syn, verdict.ActionAccept)
		r.want(back(flags(syn, packet.TCPRst)), verdict.ActionAccept)
		if r.state(syn.Tuple).Live() {
			t.Error("not marked as ended")
		}
		data := flags(syn, packet.TCPAck)
		data.Length = 500
		r.want(data, verdict.ActionAccept)
		if !r.state(syn.Tuple).Live() {
			t.Error("marked as ended, and goes on")
		}
	})
}
