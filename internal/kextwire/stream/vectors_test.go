package stream_test

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/packet"
)

// The vectors of this file were typed by hand from the tables of the protocol. None of them came out of an encoder, and none
// may: they are what the encoders are measured by. A vector is hexadecimal; what is behind a # is for the reader.

func tuple(p packet.Protocol, local, remote string) packet.Tuple {
	return packet.Tuple{Protocol: p, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

// infoVector is an info as the driver sends it and what it means. encode is the driver's side.
type infoVector struct {
	name   string
	vector string
	check  func(*testing.T, *stream.Info)
	encode func() []byte
}

func wantKind(t *testing.T, i *stream.Info, want stream.Kind) {
	t.Helper()
	if i.Kind != want {
		t.Fatalf("got kind %d; want %d", i.Kind, want)
	}
}

func checkConnection(kind stream.Kind, want stream.Connection) func(*testing.T, *stream.Info) {
	return func(t *testing.T, i *stream.Info) {
		wantKind(t, i, kind)
		got := i.Connection
		if got.ID != want.ID || got.PID != want.PID || got.Direction != want.Direction || got.Tuple != want.Tuple ||
			got.Layer != want.Layer || string(got.Payload) != string(want.Payload) {
			t.Errorf("got %+v; want %+v", got, want)
		}
	}
}

func checkEnd(kind stream.Kind, want stream.End) func(*testing.T, *stream.Info) {
	return func(t *testing.T, i *stream.Info) {
		wantKind(t, i, kind)
		if i.End != want {
			t.Errorf("got %+v; want %+v", i.End, want)
		}
	}
}

func checkBandwidth(kind stream.Kind, want ...stream.Usage) func(*testing.T, *stream.Info) {
	return func(t *testing.T, i *stream.Info) {
		wantKind(t, i, kind)
		if n := i.Bandwidth.Len(); n != len(want) {
			t.Fatalf("got %d connections; want %d", n, len(want))
		}
		for n, w := range want {
			if got := i.Bandwidth.At(n); got != w {
				t.Errorf("connection %d: got %+v; want %+v", n, got, w)
			}
		}
	}
}

func checkLog(want stream.Severity, text string) func(*testing.T, *stream.Info) {
	return func(t *testing.T, i *stream.Info) {
		wantKind(t, i, stream.KindLog)
		if i.Log.Severity != want || string(i.Log.Text) != text {
			t.Errorf("got %d %q; want %d %q", i.Log.Severity, i.Log.Text, want, text)
		}
	}
}

var (
	conn4 = stream.Connection{
		ID: 0x0102030405060708, PID: 4711, Direction: packet.Outbound,
		Tuple: tuple(packet.TCP, "192.168.1.100:50000", "93.184.216.34:443"),
		Layer: stream.LayerTransport, Payload: []byte{0xc3, 0x50, 0x01},
	}
	conn4Bare = stream.Connection{
		ID: 1, Direction: packet.Inbound, Tuple: tuple(packet.UDP, "10.0.0.1:53", "10.0.0.2:4660"),
		Layer: stream.LayerNone,
	}
	conn6 = stream.Connection{
		ID: 0xffffffffffffffff, PID: 0x1_0000_0001, Direction: packet.Inbound,
		Tuple: tuple(packet.UDP, "[2001:db8::1]:443", "[fe80::1234:5678:9abc:def0]:1"),
		Layer: stream.LayerNetwork, Payload: []byte{0x60, 0xff},
	}
	end4  = stream.End{PID: 4711, Direction: packet.Outbound, Tuple: tuple(packet.TCP, "192.168.1.100:50000", "93.184.216.34:443")}
	end6  = stream.End{Direction: packet.Inbound, Tuple: tuple(packet.UDP, "[2001:db8::1]:443", "[fe80::1234:5678:9abc:def0]:1")}
	used4 = []stream.Usage{
		{Tuple: tuple(packet.TCP, "192.168.1.100:50000", "93.184.216.34:443"), Transmitted: 1000, Received: 0x0102030405},
		{Tuple: tuple(packet.TCP, "10.0.0.1:22", "10.0.0.2:4660"), Transmitted: 0, Received: 0xffffffffffffffff},
	}
	used6 = []stream.Usage{
		{Tuple: tuple(packet.UDP, "[2001:db8::1]:443", "[fe80::1234:5678:9abc:def0]:1"), Transmitted: 7, Received: 9},
	}
)

var infoVectors = []infoVector{
	{
		name: "log line",
		vector: `00 06000000       # log line, 6 bytes
			04                # warning
			68656c6c6f        # hello`,
		check:  checkLog(stream.SeverityWarning, "hello"),
		encode: func() []byte { return stream.AppendLog(nil, stream.Log{Severity: 4, Text: []byte("hello")}) },
	},
	{
		name:   "log line without text",
		vector: `00 01000000 06`,
		check:  checkLog(stream.SeverityCritical, ""),
		encode: func() []byte { return stream.AppendLog(nil, stream.Log{Severity: 6}) },
	},
	{
		name: "connection v4 with a transport segment",
		vector: `01 26000000       # connection v4, 38 bytes
			0807060504030201  # id
			6712000000000000  # pid 4711
			00 06             # outbound, TCP
			c0a80164          # 192.168.1.100
			5db8d822          # 93.184.216.34
			50c3 bb01         # 50000, 443
			04 03000000       # transport layer, 3 bytes
			c35001`,
		check:  checkConnection(stream.KindConnection4, conn4),
		encode: func() []byte { return stream.AppendConnection(nil, stream.KindConnection4, &conn4) },
	},
	{
		name: "connection v4 without a payload",
		vector: `01 23000000       # connection v4, 35 bytes
			0100000000000000  # id
			0000000000000000  # pid unknown
			01 11             # inbound, UDP
			0a000001 0a000002
			3500 3412         # 53, 4660
			00 00000000       # no payload`,
		check:  checkConnection(stream.KindConnection4, conn4Bare),
		encode: func() []byte { return stream.AppendConnection(nil, stream.KindConnection4, &conn4Bare) },
	},
	{
		name: "connection v6 with an IP packet",
		vector: `02 3d000000       # connection v6, 61 bytes
			ffffffffffffffff  # id
			0100000001000000  # pid
			01 11             # inbound, UDP
			20010db8000000000000000000000001
			fe80000000000000123456789abcdef0
			bb01 0100         # 443, 1
			03 02000000       # network layer, 2 bytes
			60ff`,
		check:  checkConnection(stream.KindConnection6, conn6),
		encode: func() []byte { return stream.AppendConnection(nil, stream.KindConnection6, &conn6) },
	},
	{
		name: "connection end v4",
		vector: `03 16000000       # connection end v4, 22 bytes
			6712000000000000  # pid 4711
			00 06             # outbound, TCP
			c0a80164 5db8d822
			50c3 bb01`,
		check:  checkEnd(stream.KindEnd4, end4),
		encode: func() []byte { return stream.AppendEnd(nil, stream.KindEnd4, &end4) },
	},
	{
		name: "connection end v6",
		vector: `04 2e000000       # connection end v6, 46 bytes
			0000000000000000
			01 11             # inbound, UDP
			20010db8000000000000000000000001
			fe80000000000000123456789abcdef0
			bb01 0100`,
		check:  checkEnd(stream.KindEnd6, end6),
		encode: func() []byte { return stream.AppendEnd(nil, stream.KindEnd6, &end6) },
	},
	{
		name: "bandwidth v4",
		vector: `05 3d000000       # bandwidth v4, 61 bytes
			06 02000000       # TCP, 2 connections
			c0a80164 50c3     # 192.168.1.100:50000
			5db8d822 bb01     # 93.184.216.34:443
			e803000000000000  # transmitted 1000
			0504030201000000  # received
			0a000001 1600
			0a000002 3412
			0000000000000000
			ffffffffffffffff`,
		check:  checkBandwidth(stream.KindBandwidth4, used4...),
		encode: func() []byte { return stream.AppendBandwidth(nil, stream.KindBandwidth4, packet.TCP, used4) },
	},
	{
		name: "bandwidth v6",
		vector: `06 39000000       # bandwidth v6, 57 bytes
			11 01000000       # UDP, 1 connection
			20010db8000000000000000000000001 bb01
			fe80000000000000123456789abcdef0 0100
			0700000000000000  # transmitted
			0900000000000000  # received`,
		check:  checkBandwidth(stream.KindBandwidth6, used6...),
		encode: func() []byte { return stream.AppendBandwidth(nil, stream.KindBandwidth6, packet.UDP, used6) },
	},
	{
		name:   "bandwidth of nobody",
		vector: `05 05000000 06 00000000`,
		check:  checkBandwidth(stream.KindBandwidth4),
		encode: func() []byte { return stream.AppendBandwidth(nil, stream.KindBandwidth4, packet.TCP, nil) },
	},
}

// commandVectors are commands as a client writes them.
var commandVectors = []struct {
	name    string
	vector  string
	command stream.Command
}{
	{"shutdown", `00`, stream.Command{ID: 0}},
	{"verdict", `01 0807060504030201 03`, stream.Command{ID: 1, PacketID: 0x0102030405060708, Verdict: 3}},
	{"verdict split tunnel", `01 ffffffffffffffff 0b`, stream.Command{ID: 1, PacketID: 0xffffffffffffffff, Verdict: 11}},
	{
		"update v4", `02 06             # TCP
			c0a80164 50c3     # 192.168.1.100:50000
			5db8d822 bb01     # 93.184.216.34:443
			07                # permanent drop`,
		stream.Command{ID: 2, Tuple: tuple(packet.TCP, "192.168.1.100:50000", "93.184.216.34:443"), Verdict: 7},
	},
	{
		"update v6", `03 11             # UDP
			20010db8000000000000000000000001 bb01
			fe80000000000000123456789abcdef0 0100
			0a                # failed`,
		stream.Command{ID: 3, Tuple: tuple(packet.UDP, "[2001:db8::1]:443", "[fe80::1234:5678:9abc:def0]:1"), Verdict: 10},
	},
	{"clear cache", `04`, stream.Command{ID: 4}},
	{"get logs", `05`, stream.Command{ID: 5}},
	{"bandwidth stats", `06`, stream.Command{ID: 6}},
	{"print memory stats", `07`, stream.Command{ID: 7}},
	{"clean ended connections", `08`, stream.Command{ID: 8}},
}
