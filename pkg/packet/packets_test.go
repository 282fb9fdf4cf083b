package packet_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	gplayers "github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
)

// sample is a packet as a network card would deliver it, checksums included,
// with what Decode must tell when it leaves this host.
type sample struct {
	name string
	b    []byte
	want packet.Info
}

const (
	host4, peer4    = "192.0.2.10", "198.51.100.7"
	host6, peer6    = "2001:db8:1::10", "2001:db8:2::7"
	mapped, mapped2 = "::ffff:192.0.2.10", "::ffff:198.51.100.7"
)

func ip4(next gplayers.IPProtocol) *gplayers.IPv4 {
	return &gplayers.IPv4{
		Version: 4, TTL: 64, Id: 0x1c46, Flags: gplayers.IPv4DontFragment, Protocol: next,
		SrcIP: net.ParseIP(host4).To4(), DstIP: net.ParseIP(peer4).To4(),
	}
}

func ip6(next gplayers.IPProtocol) *gplayers.IPv6 {
	return &gplayers.IPv6{
		Version: 6, HopLimit: 63, NextHeader: next, FlowLabel: 0x12345,
		SrcIP: net.ParseIP(host6), DstIP: net.ParseIP(peer6),
	}
}

type checksummed interface {
	gopacket.SerializableLayer
	SetNetworkLayerForChecksum(l gopacket.NetworkLayer) error
}

// over tells a transport layer its network layer.
func over[T checksummed](tb testing.TB, l T, n gopacket.NetworkLayer) T {
	tb.Helper()
	if err := l.SetNetworkLayerForChecksum(n); err != nil {
		tb.Fatal(err)
	}
	return l
}

func build(tb testing.TB, l ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, l...); err != nil {
		tb.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

func raw(b ...byte) gopacket.Payload { return b }

// text is a payload of 4n bytes.
func text(s string) gopacket.Payload { return gopacket.Payload(s) }

func syn() *gplayers.TCP {
	return &gplayers.TCP{SrcPort: 50000, DstPort: 443, Seq: 7, SYN: true, Window: 64240, Options: []gplayers.TCPOption{
		{OptionType: gplayers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}},
		{OptionType: gplayers.TCPOptionKindSACKPermitted, OptionLength: 2},
		{OptionType: gplayers.TCPOptionKindNop}, {OptionType: gplayers.TCPOptionKindNop},
	}}
}

func udp() *gplayers.UDP { return &gplayers.UDP{SrcPort: 40000, DstPort: 53} }

func echo4(typ uint8) *gplayers.ICMPv4 {
	return &gplayers.ICMPv4{TypeCode: gplayers.CreateICMPv4TypeCode(typ, 0), Id: 0x4242, Seq: 1}
}

func addrPort(a string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), port)
}

func info4(p packet.Protocol, sport, dport uint16, length, header int) packet.Info {
	return packet.Info{
		Tuple:   packet.Tuple{Local: addrPort(host4, sport), Remote: addrPort(peer4, dport), Protocol: p},
		Version: 4, HopLimit: 64, Length: length, HeaderLength: header,
	}
}

func info6(p packet.Protocol, sport, dport uint16, length, header int) packet.Info {
	return packet.Info{
		Tuple:   packet.Tuple{Local: addrPort(host6, sport), Remote: addrPort(peer6, dport), Protocol: p},
		Version: 6, HopLimit: 63, Length: length, HeaderLength: header,
	}
}

// with returns i changed.
func with(i packet.Info, change func(i *packet.Info)) packet.Info {
	change(&i)
	return i
}

func icmp(typ, code uint8) func(i *packet.Info) {
	return func(i *packet.Info) { i.ICMPType, i.ICMPCode = typ, code }
}

func flags(f uint8) func(i *packet.Info) { return func(i *packet.Info) { i.TCPFlags = f } }

func fragment(i *packet.Info) { i.Fragment = true }

// samples are packets of every kind that Decode tells apart.
func samples(tb testing.TB) []sample {
	tb.Helper()
	return slices.Concat(samples4(tb), samples6(tb), extended6(tb), lengthless(tb))
}

func samples4(tb testing.TB) []sample {
	tb.Helper()
	var all []sample
	add := func(name string, want packet.Info, l ...gopacket.SerializableLayer) {
		all = append(all, sample{name, build(tb, l...), want})
	}
	tcp := ip4(gplayers.IPProtocolTCP)
	add("tcp4-syn", with(info4(packet.TCP, 50000, 443, 48, 48), flags(packet.TCPSyn)), tcp, over(tb, syn(), tcp))
	add("tcp4-data", with(info4(packet.TCP, 50000, 80, 58, 40), flags(packet.TCPPsh|packet.TCPAck)),
		tcp, over(tb, &gplayers.TCP{SrcPort: 50000, DstPort: 80, PSH: true, ACK: true}, tcp), text("GET / HTTP/1.0\r\n\r\n"))
	ecn := &gplayers.TCP{SrcPort: 50000, DstPort: 443, SYN: true, ECE: true, CWR: true, URG: true}
	add("tcp4-ecn", with(info4(packet.TCP, 50000, 443, 40, 40), flags(0xe2)), tcp, over(tb, ecn, tcp))
	opt := ip4(gplayers.IPProtocolTCP)
	opt.Options = []gplayers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	add("tcp4-router-alert", with(info4(packet.TCP, 50000, 443, 52, 52), flags(packet.TCPSyn)), opt, over(tb, syn(), opt))

	dns := ip4(gplayers.IPProtocolUDP)
	add("udp4", info4(packet.UDP, 40000, 53, 40, 28), dns, over(tb, udp(), dns), text("abcdefghijkl"))
	add("udp4-empty", info4(packet.UDP, 40000, 53, 28, 28), dns, over(tb, udp(), dns))
	first := ip4(gplayers.IPProtocolUDP)
	first.Flags = gplayers.IPv4MoreFragments
	head := build(tb, dns, over(tb, udp(), dns), gopacket.Payload(make([]byte, 2000)))[20:44]
	add("udp4-first-fragment", info4(packet.UDP, 40000, 53, 44, 28), first, gopacket.Payload(head))
	later := ip4(gplayers.IPProtocolUDP)
	later.Flags, later.FragOffset = 0, 185
	add("udp4-later-fragment", with(info4(packet.UDP, 0, 0, 24, 20), fragment), later, text("tail"))
	later = ip4(gplayers.IPProtocolICMPv4)
	later.Flags, later.FragOffset = gplayers.IPv4MoreFragments, 1
	add("icmp4-later-fragment", with(info4(packet.ICMP, 0, 0, 28, 20), fragment), later, text("mid part"))
	add("udplite4", info4(packet.UDPLite, 5000, 6000, 32, 28), ip4(gplayers.IPProtocolUDPLite), raw(0x13, 0x88, 0x17, 0x70, 0, 8, 0, 0, 1, 2, 3, 4))
	add("udplite4-all-covered", info4(packet.UDPLite, 5000, 6000, 32, 28), ip4(gplayers.IPProtocolUDPLite), raw(0x13, 0x88, 0x17, 0x70, 0, 0, 0, 0, 1, 2, 3, 4))
	add("sctp4", info4(packet.SCTP, 3868, 3869, 36, 32), ip4(gplayers.IPProtocolSCTP),
		&gplayers.SCTP{SrcPort: 3868, DstPort: 3869, VerificationTag: 9}, raw(11, 0, 0, 4))

	ping := ip4(gplayers.IPProtocolICMPv4)
	add("icmp4-echo-request", with(info4(packet.ICMP, 0x4242, 0, 32, 28), icmp(8, 0)), ping, echo4(8), text("ping"))
	add("icmp4-echo-reply", with(info4(packet.ICMP, 0, 0x4242, 32, 28), icmp(0, 0)), ping, echo4(0), text("ping"))
	add("icmp4-timestamp", with(info4(packet.ICMP, 0, 0, 40, 28), icmp(13, 0)), ping, echo4(13), gopacket.Payload(make([]byte, 12)))
	add("icmp4-unreachable", with(info4(packet.ICMP, 0, 0, 56, 28), icmp(3, 13)), ping,
		&gplayers.ICMPv4{TypeCode: gplayers.CreateICMPv4TypeCode(3, 13)}, gopacket.Payload(build(tb, dns, over(tb, udp(), dns))))
	add("igmp4", info4(packet.IGMP, 0, 0, 28, 20), ip4(gplayers.IPProtocolIGMP), raw(0x16, 0, 9, 4, 224, 0, 0, 251))
	add("gre4", info4(47, 0, 0, 24, 20), ip4(gplayers.IPProtocolGRE), raw(0, 0, 8, 0))
	add("ah4", info4(51, 0, 0, 32, 20), ip4(gplayers.IPProtocolAH), raw(6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1))
	add("unknown4-empty", info4(253, 0, 0, 20, 20), ip4(253))
	return all
}

func samples6(tb testing.TB) []sample {
	tb.Helper()
	var all []sample
	add := func(name string, want packet.Info, l ...gopacket.SerializableLayer) {
		all = append(all, sample{name, build(tb, l...), want})
	}
	tcp := ip6(gplayers.IPProtocolTCP)
	add("tcp6-syn", with(info6(packet.TCP, 50000, 443, 68, 68), flags(packet.TCPSyn)), tcp, over(tb, syn(), tcp))
	dns := ip6(gplayers.IPProtocolUDP)
	add("udp6", info6(packet.UDP, 40000, 53, 60, 48), dns, over(tb, udp(), dns), text("abcdefghijkl"))
	add("udplite6", info6(packet.UDPLite, 5000, 6000, 52, 48), ip6(gplayers.IPProtocolUDPLite), raw(0x13, 0x88, 0x17, 0x70, 0, 8, 0, 0, 1, 2, 3, 4))
	add("sctp6", info6(packet.SCTP, 3868, 3869, 56, 52), ip6(gplayers.IPProtocolSCTP),
		&gplayers.SCTP{SrcPort: 3868, DstPort: 3869, VerificationTag: 9}, raw(11, 0, 0, 4))
	m := ip6(gplayers.IPProtocolUDP)
	m.SrcIP, m.DstIP = net.ParseIP(mapped).To16(), net.ParseIP(mapped2).To16()
	want := info4(packet.UDP, 40000, 53, 48, 48)
	want.Version, want.HopLimit = 6, 63
	add("udp6-mapped", want, m, over(tb, udp(), m))

	ping := ip6(gplayers.IPProtocolICMPv6)
	icmp6 := func(typ, code uint8) gopacket.SerializableLayer {
		return over(tb, &gplayers.ICMPv6{TypeCode: gplayers.CreateICMPv6TypeCode(typ, code)}, ping)
	}
	id := &gplayers.ICMPv6Echo{Identifier: 0x4242, SeqNumber: 1}
	add("icmp6-echo-request", with(info6(packet.ICMPv6, 0x4242, 0, 52, 48), icmp(128, 0)), ping, icmp6(128, 0), id, text("ping"))
	add("icmp6-echo-reply", with(info6(packet.ICMPv6, 0, 0x4242, 52, 48), icmp(129, 0)), ping, icmp6(129, 0), id, text("ping"))
	add("icmp6-neighbour", with(info6(packet.ICMPv6, 0, 0, 64, 48), icmp(135, 0)), ping, icmp6(135, 0), gopacket.Payload(make([]byte, 20)))
	add("icmp6-too-big", with(info6(packet.ICMPv6, 0, 0, 96, 48), icmp(2, 0)), ping, icmp6(2, 0), raw(0, 0, 5, 0),
		gopacket.Payload(build(tb, dns, over(tb, udp(), dns))))
	add("esp6", info6(50, 0, 0, 48, 40), ip6(gplayers.IPProtocolESP), raw(0, 0, 0, 1, 0, 0, 0, 1))
	add("none6", info6(59, 0, 0, 41, 40), ip6(59), raw(0))
	return all
}

// extended6 has the extension headers by hand: gopacket writes only two.
func extended6(tb testing.TB) []sample {
	tb.Helper()
	var all []sample
	add := func(name string, want packet.Info, first gplayers.IPProtocol, ext []byte, transport []byte) {
		all = append(all, sample{name, build(tb, ip6(first), gopacket.Payload(ext), gopacket.Payload(transport)), want})
	}
	dns := ip6(gplayers.IPProtocolUDP)
	u := build(tb, dns, over(tb, udp(), dns), text("data"))[40:]
	add("udp6-hop-by-hop", info6(packet.UDP, 40000, 53, 60, 56), 0, []byte{17, 0, 5, 2, 0, 0, 1, 0}, u)
	add("udp6-destination", info6(packet.UDP, 40000, 53, 68, 64), 60, []byte{17, 1, 1, 12, 14: 0, 15: 0}, u)
	add("udp6-routing", info6(packet.UDP, 40000, 53, 76, 72), 43, []byte{17, 2, 4, 0, 23: 0}, u)
	add("udp6-auth", info6(packet.UDP, 40000, 53, 76, 72), 51, []byte{17, 4, 0, 0, 0, 0, 0, 1, 23: 0}, u)
	add("udp6-atomic-fragment", info6(packet.UDP, 40000, 53, 60, 56), 44, []byte{17, 0, 0, 0, 0, 0, 0, 1}, u)
	add("udp6-first-fragment", info6(packet.UDP, 40000, 53, 60, 56), 44, []byte{17, 0, 0, 1, 0, 0, 0, 1}, u)
	add("udp6-later-fragment", with(info6(packet.UDP, 0, 0, 60, 48), fragment), 44, []byte{17, 0, 5, 0xb8, 0, 0, 0, 1}, u)
	add("destination6-later-fragment", with(info6(60, 0, 0, 60, 48), fragment), 44, []byte{60, 0, 0, 8, 0, 0, 0, 1}, u)
	add("udp6-chain", info6(packet.UDP, 40000, 53, 108, 104), 0, slices.Concat(
		[]byte{60, 0, 1, 4, 0, 0, 0, 0}, []byte{43, 0, 1, 4, 0, 0, 0, 0}, []byte{44, 0, 4, 0, 0, 0, 0, 0},
		[]byte{51, 0, 0, 1, 0, 0, 0, 1}, []byte{60, 2, 0, 0, 0, 0, 0, 1, 15: 0}, []byte{17, 0, 1, 4, 0, 0, 0, 0}), u)
	return all
}

// lengthless are packets over 64 KiB as Linux queues them, cut off.
func lengthless(tb testing.TB) []sample {
	tb.Helper()
	t4, t6 := ip4(gplayers.IPProtocolTCP), ip6(gplayers.IPProtocolTCP)
	big4 := build(tb, t4, over(tb, syn(), t4))
	big6 := build(tb, t6, over(tb, syn(), t6))
	jumbo := slices.Concat(big6[:40], []byte{6, 0, 0xc2, 4, 0, 2, 0, 0}, big6[40:])
	jumbo[6] = 0
	for at, b := range map[int][]byte{2: big4, 4: big6, -4: jumbo} {
		binary.BigEndian.PutUint16(b[max(at, -at):], 0)
	}
	return []sample{
		{"tcp4-big", big4, with(info4(packet.TCP, 50000, 443, 48, 48), flags(packet.TCPSyn))},
		{"tcp6-big", big6, with(info6(packet.TCP, 50000, 443, 68, 68), flags(packet.TCPSyn))},
		{"tcp6-jumbo", jumbo, with(info6(packet.TCP, 50000, 443, 40+0x20000, 76), flags(packet.TCPSyn))},
	}
}
