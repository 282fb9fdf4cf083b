package procinfo

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func inodes(socks []sock) []uint32 {
	var out []uint32
	for _, s := range socks {
		out = append(out, s.inode)
	}
	return out
}

func TestReceivers(t *testing.T) {
	any4, any6 := ap("0.0.0.0:53"), ap("[::]:53")
	none4, none6 := ap("0.0.0.0:0"), ap("[::]:0")
	all4 := sock{inode: 1, local: any4, remote: none4}
	all6 := sock{inode: 2, local: any6, remote: none6, v6: true}
	only6 := sock{inode: 3, local: any6, remote: none6, v6: true, v6only: true}
	bound := sock{inode: 4, local: ap("10.0.0.1:53"), remote: none4}
	peer := sock{inode: 5, local: ap("10.0.0.1:53"), remote: ap("10.0.0.2:9"), state: stateEstablished}
	other := sock{inode: 6, local: ap("10.0.0.1:53"), remote: ap("10.0.0.3:9"), state: stateEstablished}
	device := sock{inode: 7, local: any4, remote: none4, iface: 3}
	twin := sock{inode: 8, local: any4, remote: none4}
	for _, test := range []struct {
		name          string
		socks         []sock
		local, remote string
		iface         uint32
		want          []uint32
	}{
		{"wildcard", []sock{all4}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{1}},
		{"other port", []sock{all4}, "10.0.0.1:54", "10.0.0.2:9", 0, nil},
		{"dual stack", []sock{all6}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{2}},
		{"v6 only", []sock{only6}, "10.0.0.1:53", "10.0.0.2:9", 0, nil},
		{"v6", []sock{only6, all4}, "[fd00::1]:53", "[fd00::2]:9", 0, []uint32{3}},
		{"v4 before dual", []sock{all6, all4}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{1}},
		{"bound before wildcard", []sock{all4, bound, all6}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{4}},
		{"connected first", []sock{all4, bound, peer, other}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{5}},
		{"device", []sock{all4, device}, "10.0.0.1:53", "10.0.0.2:9", 3, []uint32{7}},
		{"other device", []sock{all4, device}, "10.0.0.1:53", "10.0.0.2:9", 2, []uint32{1}},
		{"equal", []sock{all4, twin}, "10.0.0.1:53", "10.0.0.2:9", 0, []uint32{1, 8}},
		{"multicast", []sock{all4, all6, twin, bound}, "224.0.0.251:53", "10.0.0.2:9", 0, []uint32{1, 2, 8}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tuple := packet.Tuple{Local: ap(test.local), Remote: ap(test.remote), Protocol: packet.UDP}
			got := inodes(receivers(slices.Clone(test.socks), &tuple, test.iface))
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

func TestSenders(t *testing.T) {
	socks := []sock{
		{inode: 1, uid: 100, local: ap("0.0.0.0:5353"), remote: ap("0.0.0.0:0")},
		{inode: 2, uid: 200, local: ap("[::]:5353"), remote: ap("[::]:0"), v6: true},
		{inode: 3, uid: 200, local: ap("10.0.0.9:5353"), remote: ap("0.0.0.0:0")},
	}
	info := packet.Info{Tuple: packet.Tuple{Local: ap("10.0.0.1:5353"), Remote: ap("10.0.0.2:9")}}
	if got := inodes(senders(slices.Clone(socks), &info)); !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("got %v; want both sockets on the port", got)
	}
	info.HasUID, info.UID = true, 200
	if got := inodes(senders(slices.Clone(socks), &info)); !slices.Equal(got, []uint32{2}) {
		t.Errorf("got %v; want the user's", got)
	}
}

func TestStreams(t *testing.T) {
	listen := sock{inode: 1, local: ap("0.0.0.0:80"), remote: ap("0.0.0.0:0"), state: stateListen}
	peer := sock{inode: 2, local: ap("10.0.0.1:80"), remote: ap("10.0.0.2:9"), state: stateEstablished}
	pending := sock{local: ap("10.0.0.1:80"), remote: ap("10.0.0.2:9"), state: stateEstablished}
	waiting := sock{local: ap("10.0.0.1:80"), remote: ap("10.0.0.2:9"), state: 6}
	tuple := packet.Tuple{Local: ap("10.0.0.1:80"), Remote: ap("10.0.0.2:9")}
	for _, test := range []struct {
		name  string
		socks []sock
		dir   packet.Direction
		want  []uint32
	}{
		{"connected", []sock{listen, peer}, packet.Inbound, []uint32{2}},
		{"listening", []sock{listen}, packet.Inbound, []uint32{1}},
		{"not accepted", []sock{pending, listen}, packet.Inbound, []uint32{1}},
		{"time-wait", []sock{waiting, listen}, packet.Inbound, []uint32{0}},
		{"out", []sock{listen, peer}, packet.Outbound, []uint32{2}},
		{"listening is not out", []sock{listen}, packet.Outbound, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := inodes(streams(slices.Clone(test.socks), &tuple, 0, test.dir)); !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

func TestRawsAndPings(t *testing.T) {
	info := packet.Info{ICMPType: 8, Tuple: packet.Tuple{
		Local: ap("10.0.0.1:7"), Remote: ap("10.0.0.2:0"), Protocol: packet.ICMP,
	}}
	socks := []sock{
		{inode: 1, uid: 1, local: ap("0.0.0.0:1"), remote: ap("0.0.0.0:0")},
		{inode: 2, uid: 2, local: ap("0.0.0.0:255"), remote: ap("0.0.0.0:0")},
		{inode: 3, uid: 1, local: ap("0.0.0.0:47"), remote: ap("0.0.0.0:0")},
		{inode: 4, uid: 1, local: ap("0.0.0.0:1"), remote: ap("10.0.0.3:0")},
		{inode: 5, uid: 1, local: ap("10.0.0.4:1"), remote: ap("0.0.0.0:0")},
	}
	if got := inodes(raws(slices.Clone(socks), &info)); !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("got raw sockets %v; want 1 and 2", got)
	}
	echo := []sock{
		{inode: 1, local: ap("0.0.0.0:7"), remote: ap("0.0.0.0:0")},
		{inode: 2, local: ap("0.0.0.0:8"), remote: ap("0.0.0.0:0")},
	}
	if got := inodes(pings(echo, &info)); !slices.Equal(got, []uint32{1}) {
		t.Errorf("got ping sockets %v; want the one with the identifier", got)
	}
	info.HasUID, info.UID = true, 2
	if got := inodes(raws(slices.Clone(socks), &info)); !slices.Equal(got, []uint32{2}) {
		t.Errorf("got raw sockets %v; want the user's", got)
	}
}
