package firewall_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// lan is a Host in 203.0.113.0/24, a public network, that has 203.0.113.9.
type lan struct{}

func (lan) IsLocalAddr(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.9") }
func (lan) IsAttached(a netip.Addr) bool {
	return netip.MustParsePrefix("203.0.113.0/24").Contains(a)
}
func (lan) IsBroadcast(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.255") }

// What passes before anything else is asked: a default of drop is not reached.
func TestFastTrack(t *testing.T) {
	dhcp := func(local, remote string) packet.Info { return between(out(packet.UDP, 0, remote), local, remote) }
	icmp := func(typ uint8) packet.Info {
		i := in(packet.ICMP, 0, "198.51.100.7:0")
		i.ICMPType = typ
		return i
	}
	for _, tt := range []struct {
		name string
		i    packet.Info
		code verdict.Code // "" is not fast-tracked
	}{
		{"itself", between(out(packet.TCP, 0, faraway), "127.0.0.1:50000", "127.0.0.1:50000"), firewall.CodeSelf},
		{"another port", between(out(packet.TCP, 0, faraway), "127.0.0.1:50000", "127.0.0.1:50001"), ""},
		{"dhcp broadcast", dhcp("0.0.0.0:68", "255.255.255.255:67"), firewall.CodeDHCP},
		{"dhcp renewal", dhcp("192.168.1.2:68", "192.168.1.1:67"), firewall.CodeDHCP},
		{"dhcp answer", back(dhcp("255.255.255.255:68", "192.168.1.1:67")), firewall.CodeDHCP},
		{"dhcp far away", dhcp("192.168.1.2:68", "198.51.100.7:67"), ""},
		{"dhcp server", dhcp("192.168.1.2:67", "192.168.1.1:68"), ""},
		{"dhcp by tcp", between(out(packet.TCP, 0, faraway), "192.168.1.2:68", "192.168.1.1:67"), ""},
		{"dhcpv6", dhcp("[fe80::2]:546", "[ff02::1:2]:547"), firewall.CodeDHCP},
		{"dhcpv6 far away", dhcp("[2001:db8::2]:546", "[2001:db8:1::1]:547"), ""},
		{"dhcpv6 ports in ipv4", dhcp("192.168.1.2:546", "192.168.1.1:547"), ""},
		{"our api", between(out(packet.TCP, 0, faraway), "127.0.0.1:40000", "127.0.0.1:817"), firewall.CodeOwnService},
		{"our api, its side", between(in(packet.TCP, 0, faraway), "127.0.0.1:817", "127.0.0.1:40000"), firewall.CodeOwnService},
		{"our api by udp", between(out(packet.UDP, 0, faraway), "127.0.0.1:40000", "127.0.0.1:817"), ""},
		{"our api from elsewhere", between(in(packet.TCP, 0, faraway), "127.0.0.1:817", "198.51.100.7:40000"), ""},
		{"our nameserver on any address", between(out(packet.UDP, 0, faraway), "203.0.113.9:40000", "203.0.113.9:53"), firewall.CodeOwnService},
		{"another's nameserver", between(out(packet.UDP, 0, faraway), "203.0.113.9:40000", "203.0.113.5:53"), ""},
		{"another family", between(out(packet.UDP, 0, faraway), "[::1]:40000", "[::1]:53"), ""},
		{"icmp unreachable", icmp(3), "icmp"},
		{"icmp echo", ping(packet.Inbound, "198.51.100.7"), ""},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				c.DefaultOutbound, c.DefaultInbound, c.DefaultLocal = verdict.Drop, verdict.Drop, verdict.Drop
				c.Host = lan{}
				c.Services = []firewall.Service{
					{Protocol: packet.TCP, Addr: addr("127.0.0.1:817")}, {Protocol: packet.UDP, Addr: addr("0.0.0.0:53")},
				}
			})
			got := r.fate(tt.i)
			synctest.Wait()
			switch {
			case tt.code == "icmp":
				if got.Action != verdict.ActionAccept || r.store.Get(tt.i.Tuple) != nil {
					t.Errorf("got %v, record %v; want one packet accepted without a record", got, r.store.Get(tt.i.Tuple))
				}
				r.wantBy(tt.i, verdict.ActionAccept, intercepttest.ByLookup)
			case tt.code == "":
				if got.Action.Verdict() != verdict.Drop || r.state(tt.i.Tuple).Decision.Reason.Code != firewall.CodeDefault {
					t.Errorf("got %v for %+v; want the default", got, r.state(tt.i.Tuple).Decision)
				}
			default:
				if d := r.state(tt.i.Tuple).Decision; got.Action != verdict.ActionAccept || d.Reason.Code != tt.code {
					t.Errorf("got %v for %+v; want Accept for %v", got, d, tt.code)
				}
			}
		})
	}
}

func TestFastTrackedByDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.DefaultOutbound = verdict.Drop })
		i := out(packet.TCP, 1, faraway)
		res := r.src.Send(intercepttest.Packet{Info: i, Kind: intercepttest.FastTracked})
		if got := r.result(res); got.Action != verdict.ActionAccept {
			t.Errorf("got %v; want Accept", got)
		}
		if d := r.state(i.Tuple).Decision; d.Reason.Code != firewall.CodeDriver {
			t.Errorf("got %+v; want %v", d, firewall.CodeDriver)
		}
		// info-only packets take no verdict, and nothing is wrong with that
		if got := r.result(r.src.Send(intercepttest.Packet{Info: i, Kind: intercepttest.InfoOnly})); got.By != intercepttest.ByNobody {
			t.Errorf("got %v; want no verdict", got)
		}
		if n := r.Stats().ApplyErrors; n != 0 {
			t.Errorf("got %d errors; want 0", n)
		}
	})
}

// counting is a Slot with a handler that counts its calls and blocks.
func counting(t *testing.T) (*extverdict.Slot, *atomic.Int64) {
	t.Helper()
	var slot extverdict.Slot
	var n atomic.Int64
	if err := slot.Set("counting", func(context.Context, *conn.Snapshot) extverdict.Result {
		n.Add(1)
		return extverdict.Result{Verdict: verdict.Block}
	}); err != nil {
		t.Fatal(err)
	}
	return &slot, &n
}

// Own connections pass everything that would refuse them, never meet the
// external handler, and are left alone by re-evaluation.
func TestOwnConnections(t *testing.T) {
	own := conn.Process{PID: 4242, Path: "/usr/bin/refd"}
	for _, tt := range []struct {
		name string
		i    packet.Info
		edit func(c *firewall.Config)
		prep func(r *rig)
		code verdict.Code // "" is not ours
		want verdict.Action
	}{
		{
			"pre-authenticated", out(packet.TCP, 5000, faraway), nil,
			func(r *rig) { r.preAuthenticate(packet.TCP, 5000) }, firewall.CodePreAuth, verdict.ActionPermanentAcceptFinal,
		},
		{
			"pre-authenticated for another protocol", out(packet.TCP, 5000, faraway), nil,
			func(r *rig) { r.preAuthenticate(packet.UDP, 5000) }, "", 0,
		},
		{
			"pre-authenticated too long ago", out(packet.TCP, 5000, faraway), nil,
			func(r *rig) { r.preAuthenticate(packet.TCP, 5000); time.Sleep(3 * time.Second) }, "", 0,
		},
		{
			"pre-authenticated and pruned", out(packet.TCP, 5000, faraway), nil,
			func(r *rig) { r.preAuthenticate(packet.TCP, 5000); time.Sleep(6 * time.Second) }, "", 0,
		},
		{
			"pre-authenticated, but inbound", in(packet.TCP, 5000, faraway), nil,
			func(r *rig) { r.preAuthenticate(packet.TCP, 5000) }, "", 0,
		},
		{
			"proxy egress", out(packet.UDP, 5000, faraway),
			func(c *firewall.Config) { c.OwnEgress = func(t packet.Tuple) bool { return t.Local.Port() == 5000 } },
			nil, firewall.CodeOwnEgress, verdict.ActionPermanentAcceptFinal,
		},
		{
			"own pid out", out(packet.TCP, 5000, faraway),
			func(c *firewall.Config) { c.OwnPID, c.Processes = 4242, isProcess(own) },
			nil, firewall.CodeOwnProcess, verdict.ActionPermanentAcceptFinal,
		},
		{
			"own pid asks a nameserver", out(packet.UDP, 5000, "198.51.100.7:53"),
			func(c *firewall.Config) {
				c.OwnPID, c.Processes = 4242, isProcess(own)
				c.ToNameserver = func(s *conn.Snapshot) bool { return s.Tuple.Remote.Port() == 53 }
			},
			nil, firewall.CodeNameserver, verdict.ActionRerouteToNameserver,
		},
		{
			"our nameserver asks another", out(packet.UDP, 5000, "198.51.100.7:53"),
			func(c *firewall.Config) {
				c.OwnPID, c.Processes = 4242, isProcess(own)
				c.ToNameserver = func(s *conn.Snapshot) bool { return s.Tuple.Remote.Port() == 53 }
			},
			func(r *rig) { r.preAuthenticate(packet.UDP, 5000) }, firewall.CodePreAuth, verdict.ActionPermanentAcceptFinal,
		},
		{
			"own pid in from this host", between(in(packet.TCP, 0, faraway), "127.0.0.1:5000", "127.0.0.1:6000"),
			func(c *firewall.Config) { c.OwnPID, c.Processes = 4242, isProcess(own) },
			nil, firewall.CodeOwnProcess, verdict.ActionPermanentAccept,
		},
		{
			"own pid in from elsewhere", in(packet.TCP, 5000, faraway),
			func(c *firewall.Config) { c.OwnPID, c.Processes = 4242, isProcess(own) }, nil, "", 0,
		},
		{
			"another pid", out(packet.TCP, 5000, faraway),
			func(c *firewall.Config) { c.OwnPID, c.Processes = 4243, isProcess(own) }, nil, "", 0,
		},
		{
			"unknown process", out(packet.TCP, 5000, faraway),
			func(c *firewall.Config) { c.OwnPID, c.Processes = 4242, isProcess(conn.Process{}) }, nil, "", 0,
		},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			slot, handled := counting(t)
			r := start(t, func(c *firewall.Config) {
				c.External = slot
				if tt.edit != nil {
					tt.edit(c)
				}
			})
			if tt.prep != nil {
				tt.prep(r)
			}
			if tt.code == "" {
				r.wantWhy(tt.i, verdict.ActionPermanentBlock, verdict.Block, firewall.CodeHandler)
				return
			}
			r.wantWhy(tt.i, tt.want, tt.want.Verdict(), tt.code)
			r.reevaluate(firewall.Everything, 0)
			if n := handled.Load(); n != 0 || !r.state(tt.i.Tuple).Internal {
				t.Errorf("got %d calls of the handler, internal %t; want 0, true", n, r.state(tt.i.Tuple).Internal)
			}
		})
	}
}

func (r *rig) preAuthenticate(p packet.Protocol, port uint16) {
	r.t.Helper()
	if err := r.PreAuthenticate(p, port, 2*time.Second); err != nil {
		r.t.Error(err)
	}
}

func TestPreAuthenticateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.DefaultOutbound = verdict.Block })
		r.preAuthenticate(packet.TCP, 5000)
		r.want(out(packet.TCP, 5000, faraway), verdict.ActionPermanentAcceptFinal)
		r.want(out(packet.TCP, 5000, "198.51.100.8:443"), verdict.ActionPermanentBlock)
	})
}

func TestPreAuthenticateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		for _, err := range []error{
			r.PreAuthenticate(packet.ICMP, 1, time.Second), r.PreAuthenticate(packet.TCP, 0, time.Second), r.PreAuthenticate(packet.TCP, 1, 0),
		} {
			if !errors.Is(err, firewall.ErrConfig) {
				t.Errorf("got %v; want ErrConfig", err)
			}
		}
	})
}

// Ports and egress are checked before anybody looks for the process.
func TestOwnBeforeProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looked atomic.Int64
		r := start(t, func(c *firewall.Config) {
			c.OwnEgress = func(t packet.Tuple) bool { return t.Local.Port() == 6000 }
			c.Processes = finder(func(*packet.Info, packet.Direction) (*conn.Process, error) {
				looked.Add(1)
				return nil, errors.New("nobody")
			})
		})
		r.preAuthenticate(packet.TCP, 5000)
		r.want(out(packet.TCP, 5000, faraway), verdict.ActionPermanentAcceptFinal)
		r.want(out(packet.TCP, 6000, faraway), verdict.ActionPermanentAcceptFinal)
		if n := looked.Load(); n != 0 {
			t.Errorf("got %d look-ups of the process; want 0", n)
		}
		r.want(out(packet.TCP, 7000, faraway), verdict.ActionPermanentAccept)
		if s := r.Stats(); looked.Load() != 1 || s.UnknownProcess != 1 {
			t.Errorf("got %d look-ups, %d unknown; want 1, 1", looked.Load(), s.UnknownProcess)
		}
	})
}

func TestSinkhole(t *testing.T) {
	for _, remote := range []string{"0.0.0.17:443", "[::17]:443"} {
		bubble(t, remote, func(t *testing.T) {
			slot, handled := counting(t)
			r := start(t, func(c *firewall.Config) { c.External = slot })
			r.wantWhy(out(packet.TCP, 1, remote), verdict.ActionPermanentBlock, verdict.Block, firewall.CodeSinkhole)
			if n := handled.Load(); n != 0 {
				t.Errorf("got %d calls of the handler; want 0", n)
			}
		})
	}
}

// Answers to our multicast and broadcast queries are let in by their port, for a
// while.
func TestMulticastAnswers(t *testing.T) {
	const soon, late = time.Second, 15 * time.Second
	for _, tt := range []struct {
		name          string
		query, answer packet.Info
		after         time.Duration
		accepted      bool
	}{
		{"ssdp", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "192.168.1.9:1900"), soon, true},
		{"ssdp from another port", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "192.168.1.9:49152"), soon, true},
		{"mdns", out(packet.UDP, 5353, "224.0.0.251:5353"), between(in(packet.UDP, 0, faraway), "224.0.0.251:5353", "192.168.1.9:5353"), soon, true},
		{"llmnr", out(packet.UDP, 5000, "[ff02::1:3]:5355"), in(packet.UDP, 5000, "[fe80::9]:5355"), soon, true},
		{"broadcast", out(packet.UDP, 5000, "255.255.255.255:137"), in(packet.UDP, 5000, "192.168.1.9:137"), soon, true},
		{"subnet broadcast", out(packet.UDP, 5000, "203.0.113.255:137"), in(packet.UDP, 5000, "203.0.113.7:137"), soon, true},
		{"neighbour with a public address", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "203.0.113.7:1900"), soon, true},
		{"not asked", out(packet.UDP, 5000, "192.168.1.1:1900"), in(packet.UDP, 5000, "192.168.1.9:1900"), soon, false},
		{"from afar", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "198.51.100.7:1900"), soon, false},
		{"to another port", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5001, "192.168.1.9:1900"), soon, false},
		{"by tcp", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.TCP, 5000, "192.168.1.9:1900"), soon, false},
		{"late", out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "192.168.1.9:1900"), late, false},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := startOn(t, newSource(intercepttest.Config{Memory: intercepttest.Forgets}), func(c *firewall.Config) {
				c.Host, c.Permanent = lan{}, firewall.NeverPermanent
			})
			r.want(tt.query, verdict.ActionAccept)
			time.Sleep(tt.after)
			if !tt.accepted {
				r.wantWhy(tt.answer, verdict.ActionDrop, verdict.Drop, firewall.CodeDefault)
				return
			}
			r.wantWhy(tt.answer, verdict.ActionAccept, verdict.Accept, firewall.CodeMulticastAnswer)
		})
	}
}

// A query that the kernel was told to let through is alive until its end is
// reported; one that was refused has no answers.
func TestMulticastAnswerWhileKernelDecides(t *testing.T) {
	query, answer := out(packet.UDP, 5000, "239.255.255.250:1900"), in(packet.UDP, 5000, "192.168.1.9:1900")
	bubble(t, "permanent", func(t *testing.T) {
		r := start(t, nil)
		r.want(query, verdict.ActionPermanentAccept)
		time.Sleep(time.Hour)
		r.want(answer, verdict.ActionAccept)
		r.end(query.Tuple)
		time.Sleep(15 * time.Second)
		r.want(in(packet.UDP, 5000, "192.168.1.10:1900"), verdict.ActionPermanentDrop)
	})
	bubble(t, "refused", func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.DefaultOutbound = verdict.Block })
		r.want(query, verdict.ActionPermanentBlock)
		r.want(answer, verdict.ActionPermanentDrop)
	})
}

// end reports the end of a connection.
func (r *rig) end(t packet.Tuple) {
	r.t.Helper()
	r.reportEnd(t, time.Now())
}

// ICMP that is not echo passes without a record where a source asks no Lookup.
func TestICMPHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.DefaultInbound = verdict.Drop })
		i := in(packet.ICMPv6, 0, "[2001:db8:1::1]:0")
		i.ICMPType = 1
		var got []verdict.Action
		r.Handle(newRecorded(i, func(_ *recorded, a verdict.Action) { got = append(got, a) }))
		if len(got) != 1 || got[0] != verdict.ActionAccept || r.store.Len() != 0 {
			t.Errorf("got %v, %d records; want one Accept at once, none", got, r.store.Len())
		}
	})
}

// Queries that our nameserver answers meet no handler and are left alone, but
// our own resolver's queries go out.
func TestToNameserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slot, handled := counting(t)
		r := start(t, func(c *firewall.Config) {
			c.External = slot
			c.ToNameserver = func(s *conn.Snapshot) bool { return s.Tuple.Remote.Port() == 53 }
		})
		query := out(packet.UDP, 5000, "198.51.100.7:53")
		r.wantWhy(query, verdict.ActionRerouteToNameserver, verdict.RerouteToNameserver, firewall.CodeNameserver)
		r.reevaluate(firewall.Everything, 0)
		r.preAuthenticate(packet.UDP, 5001)
		r.wantWhy(out(packet.UDP, 5001, "198.51.100.7:53"), verdict.ActionPermanentAcceptFinal, verdict.Accept, firewall.CodePreAuth)
		if n := handled.Load(); n != 0 || !r.state(query.Tuple).Internal {
			t.Errorf("got %d calls of the handler, internal %t; want 0, true", n, r.state(query.Tuple).Internal)
		}
		r.wantWhy(in(packet.UDP, 5000, "198.51.100.8:53"), verdict.ActionPermanentBlock, verdict.Block, firewall.CodeHandler)
	})
}

// The same by a decider: once redirected, re-evaluation skips it.
func TestRedirectedDNSIsNotReevaluated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.RerouteToNameserver)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		r.want(out(packet.UDP, 5000, "198.51.100.7:53"), verdict.ActionRerouteToNameserver)
		p.set(says(verdict.Block))
		r.reevaluate(firewall.Everything, 0)
		if n := p.asked(); n != 1 {
			t.Errorf("asked %d times; want 1", n)
		}
	})
}
