package kextv2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
)

// Payloads of both layers; of a segment the IP header is made up.
func TestPayload(t *testing.T) {
	for _, kind := range intercepttest.AllKinds() {
		for _, layer := range []uint8{0, 3, 4, 9} {
			d := kexttest.NewStream(current, 11)
			kexttest.NoFaults(t, d)
			held := make(chan packet.Packet, 1)
			start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{OnHandle: func(p packet.Packet) { held <- p }})
			local, remote := netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6")
			if kind.Version == 6 {
				local, remote = netip.MustParseAddrPort("[fd00::1]:5"), netip.MustParseAddrPort("[fd00::2]:6")
			}
			sent := kexttest.UDP(local, remote, kind.Direction)
			sent.Layer = layer
			d.Send(sent)
			p := <-held
			got, err := p.Payload()
			again, _ := p.Payload()
			if layer != 3 && layer != 4 {
				if !errors.Is(err, packet.ErrNoPayload) {
					t.Errorf("%v, layer %d: got % x, %v; want ErrNoPayload", kind, layer, got, err)
				}
				continue
			}
			want := bytes.Clone(sent.Bytes)
			if kind.Version == 4 && layer == 4 {
				binary.BigEndian.PutUint16(want[10:], 0x66ce) // the checksum of that header, added up by hand: the sent one has none
			}
			if err != nil || !bytes.Equal(got, want) || !bytes.Equal(again, want) {
				t.Errorf("%v, layer %d:\n got % x, %v\nwant % x", kind, layer, got, err, want)
			}
			if i, w := p.Info(), sent.Info; i.Tuple != w.Tuple || i.Length != w.Length || i.HeaderLength != w.HeaderLength || i.Version != w.Version {
				t.Errorf("%v, layer %d: got %+v; want %+v", kind, layer, i, w)
			}
		}
	}
}

// The info of a packet has what its headers tell, if they are those of the connection.
func TestInfoFromPayload(t *testing.T) {
	syn := testutil.Hex(t, `4500 0028 0000 0000 3f06 0000 0a000001 0a000002 # TCP, hop limit 63
		0005 0006 00000000 00000000 5002 0000 0000 0000`)
	ping := testutil.Hex(t, `4500 001c 0000 0000 4001 0000 0a000001 0a000002
		0800 0000 1234 0001`)
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	conn := func(p packet.Protocol, lport, rport uint16, layer stream.Layer, payload []byte) stream.Connection {
		return stream.Connection{
			ID: 1, PID: 42, Layer: layer, Payload: payload,
			Tuple: packet.Tuple{Protocol: p, Local: netip.AddrPortFrom(local, lport), Remote: netip.AddrPortFrom(remote, rport)},
		}
	}
	for _, tt := range []struct {
		name string
		conn stream.Connection
		want packet.Info
	}{
		{"TCP SYN", conn(packet.TCP, 5, 6, 3, syn), packet.Info{TCPFlags: packet.TCPSyn, Length: 40, HeaderLength: 40, HopLimit: 63}},
		{"TCP SYN without IP header", conn(packet.TCP, 5, 6, 4, syn[20:]), packet.Info{TCPFlags: packet.TCPSyn, Length: 40, HeaderLength: 40}},
		{"of another connection", conn(packet.TCP, 5, 7, 3, syn), packet.Info{}},
		{"of another protocol", conn(packet.UDP, 5, 6, 3, syn), packet.Info{}},
		{"cut", conn(packet.TCP, 5, 6, 3, syn[:30]), packet.Info{}},
		{"nothing", conn(packet.TCP, 5, 6, 0, nil), packet.Info{}},
		{
			"ping", conn(packet.ICMP, 0, 0, 3, ping),
			packet.Info{ICMPType: 8, Length: 28, HeaderLength: 28, HopLimit: 64},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := kexttest.NewStream(current, 0)
			held := make(chan packet.Packet, 1)
			start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{OnHandle: func(p packet.Packet) { held <- p }})
			d.Inject(stream.AppendConnection(nil, stream.KindConnection4, &tt.conn))
			p := <-held
			got, want := *p.Info(), tt.want
			want.Tuple, want.Version, want.PID, want.Seen = tt.conn.Tuple, 4, 42, got.Seen
			if tt.name == "ping" {
				want.Tuple.Local = netip.AddrPortFrom(local, 0x1234) // the echo identifier
			}
			if got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
		})
	}
}
