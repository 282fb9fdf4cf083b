package refd

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

func ofPID(pid int, protocol packet.Protocol) *conn.Snapshot {
	return &conn.Snapshot{
		Process: &conn.Process{PID: pid, StartTicks: 1},
		Tuple:   packet.Tuple{Local: netip.MustParseAddrPort("192.0.2.1:4000"), Remote: netip.MustParseAddrPort("198.51.100.1:53"), Protocol: protocol},
	}
}

// However many processes change, only their connections are looked at again.
func TestChangedProcesses(t *testing.T) {
	var a attribution
	if sel, missed := a.takeChanged(); sel != nil || missed {
		t.Error("something changed before anything did")
	}
	for pid := range maxChanged {
		a.noteChanged(pid+1, 1)
	}
	sel, missed := a.takeChanged()
	if missed || !sel(ofPID(1, packet.TCP)) || !sel(ofPID(maxChanged, packet.TCP)) || sel(ofPID(maxChanged+1, packet.TCP)) {
		t.Error("other connections are selected than those of the processes that changed")
	}
	for pid := range maxChanged + 1 {
		a.noteChanged(pid+1, 1)
	}
	if sel, missed = a.takeChanged(); !missed || sel(ofPID(maxChanged+1, packet.TCP)) {
		t.Error("one too many: it is not noticed, or all are selected")
	}
	a.noteLost(3)
	if _, missed = a.takeChanged(); !missed {
		t.Error("lost events are not noticed")
	}
	a.noteLost(3)
	if _, missed = a.takeChanged(); missed {
		t.Error("lost events are noticed twice")
	}
}

// A socket that sends from any address is told without one.
func TestMovedConnections(t *testing.T) {
	for _, local := range []string{"0.0.0.0:4000", "192.0.2.1:4000"} {
		var a attribution
		moved := ofPID(1, packet.UDP).Tuple
		moved.Local = netip.MustParseAddrPort(local)
		a.noteMoved(moved)
		sel, _ := a.takeChanged()
		if sel == nil || !sel(ofPID(7, packet.UDP)) || sel(ofPID(7, packet.TCP)) {
			t.Errorf("%s: its connection is not selected, or another one", local)
		}
	}
}

// An answer about a program whose path says nothing makes a rule for its identity, and never one for everybody.
func TestRuleOfSandbox(t *testing.T) {
	p := &conn.Process{InnerPath: "/usr/bin/true", App: conn.App{ID: "sandbox:/usr/bin/true"}}
	if m := appOf(p); m.Identity != rules.Quote(p.App.ID) || m.Path != "" {
		t.Errorf("got %+v; want its identity", m)
	}
}
