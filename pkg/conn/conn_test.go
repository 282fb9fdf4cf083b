package conn_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func tuple() packet.Tuple {
	return packet.Tuple{
		Local:    netip.MustParseAddrPort("192.0.2.10:50000"),
		Remote:   netip.MustParseAddrPort("198.51.100.7:443"),
		Protocol: packet.TCP,
	}
}

func started() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC) }

func first() *conn.Snapshot {
	return &conn.Snapshot{ID: 7, Tuple: tuple(), Scope: netscope.Of(tuple().Remote.Addr()), Started: started()}
}

func TestActionPacking(t *testing.T) {
	c := conn.New(first())
	if a, route, ok := c.Action(); ok {
		t.Errorf("new: got %v, %d; want nothing", a, route)
	}
	for a := range verdict.Action(verdict.NumActions) {
		for route := range 256 {
			c.SetAction(a, uint8(route))
			if gotA, gotR, ok := c.Action(); !ok || gotA != a || int(gotR) != route {
				t.Fatalf("got %v, %d, %t; want %v, %d", gotA, gotR, ok, a, route)
			}
		}
	}
	c.ClearAction()
	if a, route, ok := c.Action(); ok {
		t.Errorf("cleared: got %v, %d; want nothing", a, route)
	}
}

// Backends index a table with what Action returns.
func TestUnknownActionIsDrop(t *testing.T) {
	c := conn.New(first())
	for _, a := range []verdict.Action{verdict.NumActions, 255} {
		c.SetAction(a, 3)
		if got, _, ok := c.Action(); !ok || got != verdict.ActionDrop {
			t.Errorf("%v: got %v, %t; want %v", a, got, ok, verdict.ActionDrop)
		}
	}
}

func TestUpdatePublishesAnother(t *testing.T) {
	c := conn.New(first())
	before := c.State()
	kept := *before
	published := c.Update(func(s *conn.Snapshot) {
		if s == before {
			t.Error("change works on the published snapshot")
		}
		s.Process = &conn.Process{PID: 42, Path: "/usr/bin/curl"}
		s.CNAMEs = append(s.CNAMEs, "a.example")
		s.Decision = verdict.Decision{Verdict: verdict.Accept, Scope: verdict.ScopePermanent}
		s.Ended = started().Add(time.Second)
	})
	if !reflect.DeepEqual(*before, kept) {
		t.Errorf("the old snapshot is now %+v; want %+v", *before, kept)
	}
	if c.State() != published || published == before {
		t.Error("Update returned another state than it published")
	}
	if s := c.State(); s.Process.PID != 42 || s.Verdict() != verdict.Accept || s.Live() || s.Tuple != tuple() {
		t.Errorf("got %+v; want the change and the rest as before", s)
	}
}

func TestSnapshotIsACopy(t *testing.T) {
	c := conn.New(first())
	s := c.Snapshot()
	p := &s
	p.Domain, p.Packets = "changed.example", 99
	if got := c.Snapshot(); got.Domain == p.Domain || got.Packets == p.Packets {
		t.Errorf("got %+v; want it unchanged", got)
	}
}

func TestFigures(t *testing.T) {
	c := conn.New(first())
	if got := c.Snapshot(); !got.LastSeen.Equal(started()) || got.Packets != 0 {
		t.Errorf("new: got %v, %d packets; want the start, 0", got.LastSeen, got.Packets)
	}
	later := started().Add(3 * time.Second)
	for range 3 {
		c.Saw(&packet.Info{Seen: later})
	}
	c.Saw(&packet.Info{}) // a backend without a clock
	c.AddUsage(1000, 200)
	c.AddUsage(1, 2)
	got := c.Snapshot()
	if !got.LastSeen.Equal(later) || !c.LastSeen().Equal(later) || got.Packets != 4 {
		t.Errorf("got %v, %v, %d packets; want %v, 4", got.LastSeen, c.LastSeen(), got.Packets, later)
	}
	if got.ReceivedBytes != 1001 || got.SentBytes != 202 {
		t.Errorf("got %d received, %d sent; want 1001, 202", got.ReceivedBytes, got.SentBytes)
	}
	if s := c.State(); s.Packets != 0 || !s.LastSeen.IsZero() {
		t.Errorf("State has live figures: %+v", s)
	}
	// the clock was set back: what was seen last is what counts
	c.Saw(&packet.Info{Seen: started()})
	if !c.LastSeen().Equal(started()) {
		t.Errorf("got %v; want %v", c.LastSeen(), started())
	}
}

func TestUnknownTimes(t *testing.T) {
	c := conn.New(&conn.Snapshot{})
	if got := c.LastSeen(); !got.IsZero() {
		t.Errorf("got %v; want zero", got)
	}
	if got := c.Snapshot().LastSeen; !got.IsZero() {
		t.Errorf("got %v; want zero", got)
	}
}

// Writers of every kind and readers at once: meant for -race.
func TestConcurrency(t *testing.T) {
	const writers, rounds = 8, 500
	c := conn.New(first())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range rounds {
				c.Update(func(s *conn.Snapshot) { s.CNAMEs = append(slices.Clone(s.CNAMEs), "x") })
				c.Saw(&packet.Info{Seen: started().Add(time.Duration(n))})
				c.AddUsage(1, 2)
				c.SetAction(verdict.ActionPermanentAccept, uint8(w))
				if n%10 == 0 {
					c.ClearAction()
				}
			}
		})
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := 0
			for {
				select {
				case <-done:
					return
				default:
				}
				s := c.Snapshot()
				if len(s.CNAMEs) < last || s.ID != 7 {
					t.Errorf("%d after %d updates, id %d", len(s.CNAMEs), last, s.ID)
					return
				}
				last = len(s.CNAMEs)
				if a, route, ok := c.Action(); ok && (a != verdict.ActionPermanentAccept || route >= writers) {
					t.Errorf("got %v, %d; want what one writer set", a, route)
					return
				}
			}
		})
	}
	wg.Wait()
	close(done)
	readers.Wait()
	s := c.Snapshot()
	if len(s.CNAMEs) != writers*rounds || s.Packets != writers*rounds || s.ReceivedBytes != writers*rounds || s.SentBytes != 2*writers*rounds {
		t.Errorf("got %d updates, %d packets, %d and %d bytes; want %d of each, twice sent",
			len(s.CNAMEs), s.Packets, s.ReceivedBytes, s.SentBytes, writers*rounds)
	}
}

// A change that panics must not lock the connection for ever.
func TestUpdatePanic(t *testing.T) {
	c := conn.New(first())
	before := c.State()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		c.Update(func(s *conn.Snapshot) { s.Domain = "half"; panic("in change") })
	}()
	if c.State() != before {
		t.Error("half a change was published")
	}
	if got := c.Update(func(s *conn.Snapshot) { s.Domain = "whole" }).Domain; got != "whole" {
		t.Errorf("got %q; want whole", got)
	}
}

func TestPacketPathAllocs(t *testing.T) {
	c := conn.New(first())
	i := packet.Info{Seen: started()}
	var ok bool
	got := testing.AllocsPerRun(100, func() {
		c.SetAction(verdict.ActionAccept, 0)
		_, _, ok = c.Action()
		i.Seen = i.Seen.Add(1)
		c.Saw(&i)
		_ = c.State().Verdict()
	})
	if got != 0 || !ok {
		t.Errorf("%v allocations; want 0", got)
	}
}

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		name              string
		s                 conn.Snapshot
		live, established bool
	}{
		{"new", conn.Snapshot{}, true, false},
		{"accepted", conn.Snapshot{Decision: verdict.Decision{Verdict: verdict.Accept}}, true, true},
		{"split", conn.Snapshot{Decision: verdict.Decision{Verdict: verdict.RerouteToSplitTun}}, true, true},
		{"blocked", conn.Snapshot{Decision: verdict.Decision{Verdict: verdict.Block}}, true, false},
		{"ended", conn.Snapshot{Decision: verdict.Decision{Verdict: verdict.Accept}, Ended: started()}, false, false},
	} {
		if tt.s.Live() != tt.live || tt.s.Established() != tt.established {
			t.Errorf("%s: got live %t, established %t; want %t, %t", tt.name, tt.s.Live(), tt.s.Established(), tt.live, tt.established)
		}
	}
}

func TestProcessName(t *testing.T) {
	for _, tt := range []struct {
		p    *conn.Process
		want string
	}{
		{nil, ""},
		{&conn.Process{PID: 1}, ""},
		{&conn.Process{Path: "/usr/bin/curl"}, "curl"},
		{&conn.Process{Path: "/usr/bin/python3.13", Script: "/srv/fetch.py"}, "fetch.py"},
	} {
		if got := tt.p.Name(); got != tt.want {
			t.Errorf("%+v: got %q; want %q", tt.p, got, tt.want)
		}
	}
}

func TestSnapshotJSON(t *testing.T) {
	s := *first()
	s.Process = &conn.Process{PID: 42, UID: 1000, Path: "/usr/bin/curl", Args: []string{"curl", "-s"}, Parent: &conn.Process{PID: 1}}
	s.SplitTun = &conn.SplitTunContext{Interface: "eth1", Source: netip.MustParseAddr("203.0.113.5"), Engine: "kroute", Route: 2}
	s.Tunnel = &conn.TunnelContext{Provider: "wg"}
	s.Decision = verdict.Decision{Verdict: verdict.RerouteToSplitTun, Scope: verdict.ScopePermanent, Reason: verdict.Reason{Code: "rule"}}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got conn.Snapshot
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%s: got %+v, %v; want %+v", b, got, err, s)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	if _, ok := fields["ended"]; ok {
		t.Errorf("%s: a live connection has an end", b)
	}
}
