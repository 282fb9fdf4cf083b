package refd

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// vpnDaemon is the part of a daemon that the interop with IVPN needs; nothing of it runs.
func vpnDaemon(t *testing.T) *Daemon {
	t.Helper()
	d := &Daemon{log: slog.New(slog.DiscardHandler), cfg: &config.Loaded{File: config.Default()}}
	d.cfg.IVPN.Folder = t.TempDir()
	if err := d.buildIVPN(); err != nil {
		t.Fatal(err)
	}
	d.opt.Config = d.cfg
	if _, err := d.vpnModules(); err != nil {
		t.Fatal(err)
	}
	return d
}

// The hint that IVPN is there is seen while it is there, unless somebody does not want to see it, whatever comes first; who has
// dismissed it is not told again because the configuration was read again.
func TestVPNNotice(t *testing.T) {
	d := vpnDaemon(t)
	detected := ivpn.Condition{ID: ivpn.ConditionDetected, Text: "IVPN is here"}
	gone := ivpn.Condition{ID: ivpn.ConditionDetected, Over: true}
	wants := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, s := range d.vpn.States().All() {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q; want %q", when, got, want)
		}
	}
	wants("without IVPN")
	d.vpnCondition(detected)
	wants("with IVPN", ivpn.ConditionDetected)
	if s := d.vpn.States().All()[0]; s.Severity != module.Hint {
		t.Errorf("got %v; want a hint", s.Severity)
	}
	shown := d.vpn.States().All()[0].Time
	d.notice.want(true)
	if now := d.vpn.States().All()[0].Time; !now.Equal(shown) {
		t.Errorf("raised again at %v; want it to last since %v", now, shown)
	}
	d.notice.want(false)
	wants("not to be shown again")
	d.vpnCondition(gone)
	d.vpnCondition(detected)
	wants("not to be shown again, IVPN came back")
	d.vpnCondition(ivpn.Condition{ID: ivpn.ConditionOldVersion, Text: "old"})
	wants("a warning is no such hint", ivpn.ConditionOldVersion)
	d.vpnCondition(ivpn.Condition{ID: ivpn.ConditionOldVersion, Over: true})
	d.notice.want(true)
	wants("to be shown", ivpn.ConditionDetected)
	d.vpnCondition(gone)
	wants("IVPN is gone")
}

// IVPN's tunnel to port 53 is no DNS: it is neither redirected to our nameserver nor inspected.
func TestVPNEndpointAtPort53(t *testing.T) {
	d := nameserverDaemon(t, func(*config.Loaded) {})
	var fc firewall.Config
	ofVPN := false
	spares := func(*conn.Snapshot) bool { return ofVPN }
	d.dns.inspect = true
	d.dns.configure(&fc, spares)
	d.nameserver.over4.Store(true)
	d.nameserver.configure(&fc, nil, spares)
	s := to("198.51.100.1:53", "")
	s.Tuple.Protocol, s.Tuple.Local, s.Direction = packet.UDP, netip.MustParseAddrPort("192.0.2.9:5000"), packet.Outbound
	s.Scope = netscope.Global
	for _, ofVPN = range []bool{false, true} {
		if got := fc.Inspector.Inspects(s); got == ofVPN {
			t.Errorf("IVPN's: %t; inspected: %t", ofVPN, got)
		}
		if got := fc.ToNameserver(s); got == ofVPN {
			t.Errorf("IVPN's: %t; redirected: %t", ofVPN, got)
		}
	}
}

// What IVPN is told of our nameserver: nothing while there is none, nothing while packets are not intercepted, and no address
// with a port that it could not use.
func TestDelegated(t *testing.T) {
	d := vpnDaemon(t)
	wants := func(when string) {
		t.Helper()
		if got, ok := (delegation{d}).Delegated(); ok {
			t.Errorf("%s: got %v; want nothing", when, got)
		}
	}
	d.setIntercepting(true)
	wants("without a nameserver")
	d = nameserverDaemon(t, enabled)
	wants("not listening, not intercepting")
	d.setIntercepting(true)
	wants("not listening")
}
