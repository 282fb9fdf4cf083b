package kexttest

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
)

// UDP returns a UDP packet with one byte of payload, without checksums.
func UDP(local, remote netip.AddrPort, dir packet.Direction) Packet {
	return Datagram(local, remote, dir, []byte{'x'})
}

// Datagram returns a UDP packet, without checksums.
func Datagram(local, remote netip.AddrPort, dir packet.Direction, payload []byte) Packet {
	b := ports(local, remote, dir)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return ip(local, remote, dir, packet.UDP, append(append(b, 0, 0), payload...))
}

// SYN returns the first packet of a TCP connection, without checksums.
func SYN(local, remote netip.AddrPort, dir packet.Direction) Packet {
	const words, syn = 5, 2 // of the header; the flag (RFC 9293 section 3.1)
	b := ports(local, remote, dir)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, words<<4, syn, 0xff, 0xff, 0, 0, 0, 0)
	return ip(local, remote, dir, packet.TCP, b)
}

// ends returns source and destination.
func ends(local, remote netip.AddrPort, dir packet.Direction) (src, dst netip.AddrPort) {
	if dir == packet.Inbound {
		return remote, local
	}
	return local, remote
}

func ports(local, remote netip.AddrPort, dir packet.Direction) []byte {
	src, dst := ends(local, remote, dir)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src.Port()), dst.Port())
}

// ip puts an IP header in front of a segment.
func ip(local, remote netip.AddrPort, dir packet.Direction, protocol packet.Protocol, segment []byte) Packet {
	src, dst := ends(local, remote, dir)
	var b []byte
	if src.Addr().Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(segment)))
		b = append(b, 0, 0, 0, 0, 64, byte(protocol), 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(segment)))
		b = append(b, byte(protocol), 64)
	}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	p := Packet{Bytes: append(b, segment...), Layer: 3}
	if err := packet.Decode(p.Bytes, dir, &p.Info); err != nil {
		panic(err) // of two ports of one version it is right
	}
	return p
}
