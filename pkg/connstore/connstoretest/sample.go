package connstoretest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Epoch is when the first connection of a sample starts.
func Epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// Sample returns n connections and DNS queries, with numbers from 1, as real machines have them: many of few programs, some of which are not known,
// of every protocol, verdict and state. They are the same ones for the same n and seed.
func Sample(n int, seed uint64) []conn.Snapshot {
	r := rand.New(rand.NewPCG(seed, uint64(n))) //nolint:gosec // a sample, and the same one each time
	all := make([]conn.Snapshot, n)
	start := Epoch()
	for i := range all {
		start = start.Add(time.Duration(r.Int64N(int64(20 * time.Second))))
		all[i] = sample(r, i, start)
	}
	return all
}

func sample(r *rand.Rand, i int, start time.Time) conn.Snapshot {
	s := conn.Snapshot{
		ID: conn.ID(i + 1), Tuple: tuple(r, i), Direction: packet.Direction(r.IntN(8) / 7), Interface: r.Uint32N(4),
		Process: process(r), Decision: decision(r), Enforced: r.IntN(5) > 0, Internal: r.IntN(20) == 0,
		Started: start, LastSeen: start.Add(time.Duration(r.Int64N(int64(time.Hour)))),
		Packets: 1 + r.Uint64N(3), ReceivedBytes: r.Uint64N(1 << 20), SentBytes: r.Uint64N(5) * 1000,
	}
	s.Scope = netscope.Of(s.Tuple.Remote.Addr())
	if s.Tuple.Protocol.IsICMP() {
		s.ICMPType, s.ICMPCode = 8, uint8(r.IntN(2))
	}
	name(r, &s)
	if s.Decision.Verdict == verdict.RerouteToSplitTun {
		s.SplitTun = &conn.SplitTunContext{Interface: pick(r, "eth0", "wlan0", "usb0"), Source: netip.MustParseAddr("203.0.113.77"), Engine: "kroute", Route: uint8(r.IntN(3))}
	}
	if s.Decision.Verdict == verdict.RerouteToTunnel {
		s.Tunnel = &conn.TunnelContext{Provider: "socks", Detail: pick(r, "", "by way of Oslo")}
	}
	if s.Domain != "" && r.IntN(4) == 0 {
		s.Query = query(r, start)
	}
	if r.IntN(4) > 0 {
		s.Ended = s.LastSeen.Add(time.Duration(r.Int64N(int64(time.Minute))))
	}
	return s
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// tuple is another one for each i below a billion or so.
func tuple(r *rand.Rand, i int) packet.Tuple {
	protocol := pick(r, packet.TCP, packet.TCP, packet.TCP, packet.UDP, packet.UDP, packet.ICMP, packet.ICMPv6, packet.Protocol(47))
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.AddrFrom4([4]byte{byte(pick(r, 10, 198, 203)), 51, 100, byte(r.IntN(40))})
	if protocol == packet.ICMPv6 || r.IntN(4) == 0 && protocol != packet.ICMP {
		local, remote = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", r.IntN(3), r.IntN(40)))
	}
	t := packet.Tuple{Local: netip.AddrPortFrom(local, uint16(1+i%65_000)), Remote: netip.AddrPortFrom(remote, uint16(pick(r, 443, 443, 80, 53, 22))), Protocol: protocol}
	if !protocol.HasPorts() {
		// these have no port to tell them apart
		a := remote.As16()
		a[10], a[11], a[12] = byte(i>>16), byte(i>>8), byte(i)
		t.Remote = netip.AddrPortFrom(netip.AddrFrom16(a), 0)
		if remote.Is4() {
			t.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 0)
		}
		t.Local = netip.AddrPortFrom(local, 0)
	}
	return t
}

func process(r *rand.Rand) *conn.Process {
	shell := &conn.Process{PID: 100, UID: 1000, Path: "/usr/bin/bash", Args: []string{"-bash"}, StartTicks: 7, Parent: &conn.Process{PID: 1, Path: "/sbin/init"}}
	switch r.IntN(6) {
	case 0:
		return nil
	case 1:
		return &conn.Process{PID: 11, UID: 1000, Path: "/usr/bin/Curl", Args: []string{"curl", "-s", "https://example.org/ a"}, StartTicks: 100, Parent: shell}
	case 2:
		return &conn.Process{PID: 12, UID: 33, Path: "/usr/bin/python3.13", Script: "/srv/fetch.py", Cgroup: "/system.slice/fetch.service", StartTicks: 200}
	case 3:
		return &conn.Process{PID: 13, Path: `C:\Windows\System32\svchost.exe`, User: "S-1-5-18", Package: "a.b_c", Services: []string{"Dnscache", "BITS"},
			App: conn.App{ID: "path:svchost", Kind: conn.AppPath, Name: "Service Host", Deleted: true}}
	}
	n := 1 + r.IntN(30)
	return &conn.Process{PID: 1000 + n, UID: 1000, Path: fmt.Sprintf("/opt/app%d/bin/App", n%7), StartTicks: uint64(n), Parent: shell}
}

// query is what the record of a DNS query has besides.
func query(r *rand.Rand, at time.Time) *conn.Query {
	switch q := (&conn.Query{Type: pick(r, "A", "AAAA", "HTTPS")}); r.IntN(4) {
	case 0:
		return q // not answered
	case 1:
		q.Error, q.Upstream = "no server answers", "tls://192.0.2.53"
		return q
	default:
		q.Answered, q.RCode, q.Source = at.Add(time.Millisecond).UTC(), pick(r, "NOERROR", "NXDOMAIN"), pick(r, "cache", "upstream")
		q.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(9))}), netip.MustParseAddr("2001:db8::7")}
		return q
	}
}

func decision(r *rand.Rand) verdict.Decision {
	d := verdict.Decision{Verdict: verdict.Verdict(r.IntN(verdict.NumVerdicts)), Scope: verdict.Scope(r.IntN(3))}
	if r.IntN(2) == 0 {
		d.Verdict = verdict.Accept
	}
	d.Reason = pick(r,
		verdict.Reason{Code: "default", Text: "nothing else decided"},
		verdict.Reason{Code: "rule", Text: "the web is for everybody", Rule: "web", By: "rules"},
		verdict.Reason{Code: "rule", Text: "no Ünïcode", Rule: "curl[2]", By: "rules"},
		verdict.Reason{Code: "handler", By: "ivpn"})
	return d
}

func name(r *rand.Rand, s *conn.Snapshot) {
	switch r.IntN(4) {
	case 0:
		s.Domain, s.CNAMEs = "www.Example.org", []string{"cdn.example.net", "edge7.cdn.example.net"}
	case 1:
		s.Domain = fmt.Sprintf("host%d.test", r.IntN(20))
	}
}
