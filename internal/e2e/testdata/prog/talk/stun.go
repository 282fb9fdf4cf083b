package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Of STUN (RFC 8489, sections 5 and 14.2).
const (
	stunBindingRequest   = 0x0001
	stunBindingSuccess   = 0x0101
	stunXORMappedAddress = 0x0020
	stunMagicCookie      = 0x2112a442
	stunHeaderLen        = 20
	stunAttributeHeader  = 4
	stunFamilyV4         = 1
	stunFamilyV6         = 2
)

// stun asks several servers from one socket, as a program does that wants to be found from outside, and prints as what it
// is seen by them.
func stun(addrs []string) error {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	asked := map[[12]byte]netip.AddrPort{}
	for _, a := range addrs {
		to, err := netip.ParseAddrPort(a)
		if err != nil {
			return err
		}
		var id [12]byte
		_, _ = rand.Read(id[:]) // never fails
		asked[id] = to
		if _, err := c.WriteToUDPAddrPort(stunMessage(stunBindingRequest, id, nil), to); err != nil {
			return err
		}
	}
	b := make([]byte, 1500)
	for len(asked) > 0 {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return fmt.Errorf("%d of %d answers missing: %w", len(asked), len(addrs), err)
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if n < stunHeaderLen || binary.BigEndian.Uint16(b) != stunBindingSuccess {
			return fmt.Errorf("got %x from %v", b[:n], from)
		}
		id := [12]byte(b[8:stunHeaderLen])
		if asked[id] != from {
			return fmt.Errorf("got an answer from %v; want it from %v", from, asked[id])
		}
		mapped, err := stunMapped(b[:n])
		if err != nil {
			return err
		}
		fmt.Println("mapped", mapped.Addr(), "by", from)
		delete(asked, id)
	}
	return nil
}

// stunServe answers binding requests until it is ended.
func stunServe(addrs []string) error {
	failed := make(chan error, len(addrs))
	for _, a := range addrs {
		c, err := net.ListenPacket("udp", a)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					failed <- err
					return
				}
				if n < stunHeaderLen || binary.BigEndian.Uint16(b) != stunBindingRequest {
					continue
				}
				id := [12]byte(b[8:stunHeaderLen])
				udp, ok := from.(*net.UDPAddr)
				if !ok {
					continue
				}
				_, _ = c.WriteTo(stunMessage(stunBindingSuccess, id, stunAddress(udp.AddrPort(), id)), from) // UDP promises nothing
			}
		}()
	}
	fmt.Println("serving")
	return <-failed
}

func stunMessage(kind uint16, id [12]byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = binary.BigEndian.AppendUint32(b, stunMagicCookie)
	return slices.Concat(b, id[:], body)
}

// stunAddress is the attribute XOR-MAPPED-ADDRESS.
func stunAddress(a netip.AddrPort, id [12]byte) []byte {
	ip, family := a.Addr().Unmap().AsSlice(), byte(stunFamilyV4)
	if len(ip) == net.IPv6len {
		family = stunFamilyV6
	}
	mask := stunMask(id)
	for i := range ip {
		ip[i] ^= mask[i]
	}
	b := binary.BigEndian.AppendUint16(nil, stunXORMappedAddress)
	b = binary.BigEndian.AppendUint16(b, uint16(stunAttributeHeader+len(ip)))
	b = append(b, 0, family)
	b = binary.BigEndian.AppendUint16(b, a.Port()^(stunMagicCookie>>16))
	return append(b, ip...)
}

// stunMapped reads it: the first attribute of an answer of stunServe.
func stunMapped(b []byte) (netip.AddrPort, error) {
	mask := stunMask([12]byte(b[8:stunHeaderLen]))
	b = b[stunHeaderLen:]
	if len(b) < 2*stunAttributeHeader || binary.BigEndian.Uint16(b) != stunXORMappedAddress {
		return netip.AddrPort{}, errors.New("no mapped address in the answer")
	}
	ip := slices.Clone(b[2*stunAttributeHeader:])
	if len(ip) > len(mask) {
		return netip.AddrPort{}, errors.New("a mapped address that is too long")
	}
	for i := range ip {
		ip[i] ^= mask[i]
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("a mapped address of %d bytes", len(ip))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[6:])^(stunMagicCookie>>16)), nil
}

func stunMask(id [12]byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, stunMagicCookie), id[:]...)
}
