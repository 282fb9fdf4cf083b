package connstore_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestGetOrAdd(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	if l.Get(key(1)) != nil || l.Len() != 0 {
		t.Error("an empty store has a connection")
	}
	c, added := l.GetOrAdd(key(1), snapshot)
	again, addedAgain := l.GetOrAdd(key(1), func() *conn.Snapshot {
		t.Error("described again")
		return snapshot()
	})
	if !added || addedAgain || again != c || l.Get(key(1)) != c || l.Len() != 1 {
		t.Errorf("got added %t, then %t, the same %t, %d; want one connection", added, addedAgain, again == c, l.Len())
	}
	other, _ := l.GetOrAdd(key(2), snapshot)
	if s := c.State(); s.ID != 1 || s.Tuple != key(1) || other.State().ID != 2 {
		t.Errorf("got ids %d, %d, tuple %v; want 1, 2, %v", s.ID, other.State().ID, s.Tuple, key(1))
	}
	if l.ByID(2) != other || l.ByID(3) != nil {
		t.Error("ByID found another")
	}
}

func TestEnd(t *testing.T) {
	var told []conn.Snapshot
	l := connstore.NewLive(connstore.Config{Ended: func(s conn.Snapshot) { told = append(told, s) }})
	var causes []connstore.Cause
	for range 2 {
		l.OnEnd(func(c *conn.Conn, why connstore.Cause) {
			if c.State().Live() {
				t.Error("told before the end")
			}
			causes = append(causes, why)
		})
	}
	c := add(t, l, key(1), verdict.Accept, epoch())
	c.AddUsage(7, 0)
	if got := l.End(key(1), after(time.Minute)); got != c || l.Get(key(1)) != nil || l.Len() != 0 {
		t.Errorf("got %v, %d live; want the connection, 0", got, l.Len())
	}
	if l.End(key(1), after(time.Minute)) != nil || l.EndConn(c, after(time.Minute)) {
		t.Error("ended twice")
	}
	if len(told) != 1 || !told[0].Ended.Equal(after(time.Minute)) || told[0].ReceivedBytes != 7 || len(causes) != 2 || causes[0] != connstore.Reported {
		t.Errorf("got %+v, %v; want it once, reported to both", told, causes)
	}
}

// A connection ends, not the one that has its tuple now.
func TestEndConn(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	old := add(t, l, key(1), verdict.Accept, epoch())
	l.End(key(1), epoch())
	now := add(t, l, key(1), verdict.Accept, epoch())
	if l.EndConn(old, epoch()) || l.Get(key(1)) != now {
		t.Error("the successor was ended")
	}
	if !l.EndConn(now, epoch()) || l.Get(key(1)) != nil {
		t.Error("the connection was not ended")
	}
}

// Who makes room: refused ones, then the one idle longest, undecided ones last.
func TestEviction(t *testing.T) {
	type one struct {
		v    verdict.Verdict
		seen time.Duration
	}
	for _, tt := range []struct {
		name string
		have []one
		out  int
	}{
		{"refused first", []one{{verdict.Accept, 0}, {verdict.Block, time.Hour}, {verdict.Accept, time.Minute}}, 1},
		{"failed first", []one{{verdict.Accept, 0}, {verdict.Failed, time.Hour}, {verdict.Undecided, 0}}, 1},
		{"idle longest", []one{{verdict.Accept, 2}, {verdict.RerouteToTunnel, 1}, {verdict.Accept, 3}}, 1},
		{"undecided last", []one{{verdict.Undecided, 0}, {verdict.Undecided, 1}, {verdict.Accept, time.Hour}}, 2},
		{"undecided, if there are no others", []one{{verdict.Undecided, 2}, {verdict.Undecided, 1}, {verdict.Undecided, 3}}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys := sameShard(t, 4)
			var out []packet.Tuple
			l := connstore.NewLive(connstore.Config{MaxLive: 3 * 64, Ended: func(s conn.Snapshot) { out = append(out, s.Tuple) }})
			l.OnEnd(func(_ *conn.Conn, why connstore.Cause) {
				if why != connstore.Evicted {
					t.Errorf("got cause %d; want Evicted", why)
				}
			})
			for n, h := range tt.have {
				add(t, l, keys[n], h.v, after(h.seen))
			}
			newest := add(t, l, keys[3], verdict.Undecided, after(2*time.Hour))
			if len(out) != 1 || out[0] != keys[tt.out] {
				t.Errorf("got %v evicted; want %v", out, keys[tt.out])
			}
			if l.Get(keys[3]) != newest || l.Len() != 3 {
				t.Errorf("got %d live; want 3, the newest among them", l.Len())
			}
		})
	}
}

func TestMaxLive(t *testing.T) {
	l := connstore.NewLive(connstore.Config{MaxLive: 640, MaxEnded: 100_000})
	const n = 5000
	for k := range n {
		l.GetOrAdd(key(k), snapshot)
	}
	if l.Len() > 640 || l.Len() < 320 {
		t.Errorf("got %d live; want about 640", l.Len())
	}
	if got := l.Query(connstore.Query{}).Total; got != n {
		t.Errorf("got %d in all; want %d", got, n)
	}
}

// Many connections are looked at in turn, and all of them by the fourth time.
func TestPruneMany(t *testing.T) {
	const many = 20_000
	l := connstore.NewLive(connstore.Config{MaxLive: 4 * many})
	for i := range many {
		add(t, l, key(i), verdict.Block, epoch())
	}
	first := l.Prune(after(time.Hour))
	if first == 0 || first > many/2 {
		t.Errorf("got %d ended at once; want about a quarter of %d", first, many)
	}
	for range 3 {
		l.Prune(after(time.Hour))
	}
	if l.Len() != 0 {
		t.Errorf("got %d left; want none", l.Len())
	}
}

func TestPrune(t *testing.T) {
	permanent := verdict.Decision{Verdict: verdict.Accept, Scope: verdict.ScopePermanent}
	watched := verdict.Decision{Verdict: verdict.Accept}
	refused := verdict.Decision{Verdict: verdict.Drop, Scope: verdict.ScopePermanent}
	for _, tt := range []struct {
		name     string
		d        verdict.Decision
		enforced bool
		proto    packet.Protocol
		lives    time.Duration // 0 is for ever
	}{
		{"undecided", verdict.Decision{}, true, packet.TCP, 0},
		{"refused", refused, true, packet.TCP, time.Minute},
		{"refused, but only observed", refused, false, packet.TCP, 150 * time.Minute},
		{"refused udp, but only observed", refused, false, packet.UDP, 3 * time.Minute},
		{"undeterminable", verdict.Decision{Verdict: verdict.Undeterminable}, true, packet.TCP, time.Minute},
		{"watched tcp", watched, true, packet.TCP, 150 * time.Minute},
		{"watched udp", watched, true, packet.UDP, 3 * time.Minute},
		{"the kernel's", permanent, true, packet.UDP, 5 * 24 * time.Hour},
		{"rerouted", verdict.Decision{Verdict: verdict.RerouteToSplitTun}, true, packet.TCP, 5 * 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := connstore.NewLive(connstore.Config{})
			k := key(1)
			k.Protocol = tt.proto
			c := add(t, l, k, verdict.Undecided, epoch())
			c.Update(func(s *conn.Snapshot) { s.Decision, s.Enforced = tt.d, tt.enforced })
			l.OnEnd(func(_ *conn.Conn, why connstore.Cause) {
				if why != connstore.Silent {
					t.Errorf("got cause %d; want Silent", why)
				}
			})
			if tt.lives == 0 {
				if n := l.Prune(after(1000 * time.Hour)); n != 0 {
					t.Errorf("got %d ended; want 0", n)
				}
				return
			}
			if n := l.Prune(after(tt.lives)); n != 0 || l.Len() != 1 {
				t.Errorf("got %d ended after %v; want 0", n, tt.lives)
			}
			c.Saw(&packet.Info{Seen: after(time.Second)})
			if n := l.Prune(after(tt.lives + time.Second)); n != 0 {
				t.Errorf("got %d ended though it was seen; want 0", n)
			}
			if n := l.Prune(after(tt.lives + 2*time.Second)); n != 1 || l.Len() != 0 {
				t.Errorf("got %d ended, %d live; want 1, 0", n, l.Len())
			}
		})
	}
}

func endedPorts(l *connstore.Live) (ports []int) {
	for _, s := range l.Query(connstore.Query{Life: connstore.OnlyEnded, Order: connstore.OldestFirst}).Connections {
		ports = append(ports, int(s.Tuple.Local.Port())-1024)
	}
	return ports
}

// The ended ones are a ring: the oldest go, by number and by age, in any mix.
func TestEndedRing(t *testing.T) {
	l := connstore.NewLive(connstore.Config{MaxEnded: 4, KeepEnded: 10 * time.Second})
	end := func(ns ...int) {
		for _, n := range ns {
			add(t, l, key(n), verdict.Accept, epoch())
			l.End(key(n), after(time.Duration(n)*time.Second))
		}
	}
	want := func(ns ...int) {
		t.Helper()
		if got := endedPorts(l); !slices.Equal(got, ns) {
			t.Errorf("got %v; want %v", got, ns)
		}
	}
	end(1, 2, 3)
	want(1, 2, 3)
	end(4, 5, 6)
	want(3, 4, 5, 6)
	l.Prune(after(14 * time.Second)) // 3 and 4 are too old
	want(5, 6)
	end(7, 8, 9)
	want(6, 7, 8, 9)
	end(10)
	want(7, 8, 9, 10)
	l.Prune(after(time.Minute))
	want()
	end(11)
	want(11)
}

func TestNoEnded(t *testing.T) {
	told := 0
	l := connstore.NewLive(connstore.Config{MaxEnded: -1, Ended: func(conn.Snapshot) { told++ }})
	add(t, l, key(1), verdict.Accept, epoch())
	l.End(key(1), epoch())
	l.Prune(epoch())
	if n := l.Query(connstore.Query{}).Total; n != 0 || told != 1 {
		t.Errorf("got %d kept, %d told; want 0, 1", n, told)
	}
}

func TestOnChange(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	early := add(t, l, key(1), verdict.Accept, epoch())
	var seen []conn.Snapshot
	l.OnChange(func(c *conn.Conn) { seen = append(seen, *c.State()) })
	late := add(t, l, key(2), verdict.Block, epoch()) // adds, and updates
	early.Update(func(s *conn.Snapshot) { s.Domain = "late.example" })
	l.End(key(2), after(time.Second))
	if len(seen) != 4 || seen[0].ID != late.State().ID || seen[1].Decision.Verdict != verdict.Block || seen[2].Domain != "late.example" || seen[3].Live() {
		t.Errorf("got %+v; want a new one, its verdict, a name of the one before, an end", seen)
	}
}

func TestSkipIDs(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	for _, tt := range []struct{ skip, want conn.ID }{{0, 1}, {40, 41}, {7, 42}} {
		l.SkipIDs(tt.skip)
		if got := add(t, l, key(int(tt.want)), verdict.Accept, epoch()).State().ID; got != tt.want {
			t.Errorf("after %d: got %d; want %d", tt.skip, got, tt.want)
		}
	}
}

func TestRangeStops(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	for n := range 100 {
		add(t, l, key(n), verdict.Accept, epoch())
	}
	n := 0
	l.Range(func(c *conn.Conn) bool {
		l.End(c.State().Tuple, epoch()) // may call methods
		n++
		return n < 10
	})
	if n != 10 || l.Len() != 90 {
		t.Errorf("got %d calls, %d live; want 10, 90", n, l.Len())
	}
}

func TestGetAllocs(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	add(t, l, key(1), verdict.Accept, epoch())
	k := key(1)
	if n := testing.AllocsPerRun(1000, func() {
		if l.Get(k) == nil {
			t.Error("lost")
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

// Everything at once: nobody is lost, told twice, or shown twice.
func TestConcurrency(t *testing.T) {
	const writers, rounds = 4, 400
	var told atomic.Int64
	l := connstore.NewLive(connstore.Config{MaxLive: 256, MaxEnded: 1 << 20, Ended: func(conn.Snapshot) { told.Add(1) }})
	var added atomic.Int64
	var all, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		all.Go(func() {
			for n := range rounds {
				k := key((n*7 + w) % 300)
				c, isNew := l.GetOrAdd(k, snapshot)
				if isNew {
					added.Add(1)
				}
				c.Update(func(s *conn.Snapshot) { s.Decision.Verdict = verdict.Verdict(2 + n%3) })
				c.Saw(&packet.Info{Seen: after(time.Duration(n))})
				switch n % 5 {
				case 0:
					l.End(k, after(time.Duration(n)))
				case 1:
					l.EndConn(c, after(time.Duration(n)))
				case 2:
					l.Prune(after(time.Duration(n)))
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			before := added.Load()
			p := l.Query(connstore.Query{})
			seen := make(map[conn.ID]bool, p.Total)
			for _, s := range p.Connections {
				if seen[s.ID] {
					t.Errorf("connection %d is shown twice", s.ID)
				}
				seen[s.ID] = true
			}
			if int64(p.Total) < before {
				t.Errorf("got %d connections; want %d at least", p.Total, before)
			}
		}
	})
	all.Wait()
	close(stop)
	readers.Wait()
	if n := int64(l.Len()) + told.Load(); n != added.Load() {
		t.Errorf("got %d live and %d ended; want %d", l.Len(), told.Load(), added.Load())
	}
}

// Live rates of an app are those of its connections that live.
func TestRatesOfGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connstore.NewLive(connstore.Config{})
		for n := range 3 {
			c := add(t, l, key(n+1), verdict.Accept, epoch())
			c.AddUsage(1000, 100)
			time.Sleep(time.Second)
			c.AddUsage(500, 50)
		}
		l.End(key(3), after(time.Minute))
		p := l.Query(connstore.Query{GroupBy: connstore.ByApp, Limit: 10})
		if len(p.Groups) != 1 || p.Groups[0].ReceivedRate != 1000 || p.Groups[0].SentRate != 100 || p.ReceivedRate != 1000 {
			t.Errorf("got %+v; want two that receive 500 bytes a second each and send 50", p)
		}
	})
}
