package testnet

import (
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// EtherTypes.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// family says what a filter needs to know about an IP header.
type family struct {
	etherType       uint32
	proto, src, dst uint32 // offsets
	is4             bool
	headerLen       uint32 // IPv6 only: IPv4 has it in its first byte
}

// program compiles the filter: one block for each family, each with its own end, so that no jump is long.
func (f Filter) program() ([]bpf.RawInstruction, error) {
	var program []bpf.Instruction
	for _, fam := range []family{
		{etherType: etherIPv4, is4: true, proto: 9, src: 12, dst: 16},
		{etherType: etherIPv6, proto: 6, src: 8, dst: 24, headerLen: 40},
	} {
		if f.excludes(fam) {
			continue
		}
		block := f.block(fam)
		program = append(program, bpf.LoadExtension{Num: bpf.ExtProto},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: fam.etherType, SkipTrue: uint8(len(block))})
		program = append(program, block...)
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: 0}))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}

func (f Filter) excludes(fam family) bool {
	for _, p := range []netip.Prefix{f.Src, f.Dst} {
		if p.IsValid() && p.Addr().Is4() != fam.is4 {
			return true
		}
	}
	return false
}

// block matches a packet of one family and returns its answer.
func (f Filter) block(fam family) []bpf.Instruction {
	const wholePacket, pktOutgoing = 0xffff, 4
	var code []bpf.Instruction
	// want adds: load something, go on if the masked value is this one. A mask of 0 means all bits.
	want := func(cond bpf.JumpTest, mask, value uint32, load ...bpf.Instruction) {
		code = append(code, load...)
		if mask != 0 {
			code = append(code, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		}
		code = append(code, bpf.JumpIf{Cond: cond, Val: value}) // its skip is set below
	}
	switch f.Direction {
	case AnyDirection:
	case Incoming:
		want(bpf.JumpEqual, 0, pktOutgoing, bpf.LoadExtension{Num: bpf.ExtType})
	case Outgoing:
		want(bpf.JumpNotEqual, 0, pktOutgoing, bpf.LoadExtension{Num: bpf.ExtType})
	}
	if f.Proto != 0 {
		want(bpf.JumpNotEqual, 0, uint32(f.Proto), bpf.LoadAbsolute{Off: fam.proto, Size: 1})
	}
	for _, addr := range []struct {
		prefix netip.Prefix
		off    uint32
	}{{f.Src, fam.src}, {f.Dst, fam.dst}} {
		for i, word := range prefixWords(addr.prefix) {
			want(bpf.JumpNotEqual, word.mask, word.value, bpf.LoadAbsolute{Off: addr.off + 4*uint32(i), Size: 4})
		}
	}
	if (f.SrcPort != 0 || f.DstPort != 0) && fam.is4 {
		want(bpf.JumpNotEqual, 0x1fff, 0, bpf.LoadAbsolute{Off: 6, Size: 2}) // the ports are in the first fragment
	}
	for i, port := range []uint16{f.SrcPort, f.DstPort} {
		if port == 0 {
			continue
		}
		toX := bpf.Instruction(bpf.LoadConstant{Dst: bpf.RegX, Val: fam.headerLen})
		if fam.is4 {
			toX = bpf.LoadMemShift{Off: 0}
		}
		want(bpf.JumpNotEqual, 0, uint32(port), toX, bpf.LoadIndirect{Off: 2 * uint32(i), Size: 2})
	}
	code = append(code, bpf.RetConstant{Val: wholePacket}, bpf.RetConstant{Val: 0})
	for i, instruction := range code {
		if jump, ok := instruction.(bpf.JumpIf); ok {
			jump.SkipTrue = uint8(len(code) - 1 - i - 1)
			code[i] = jump
		}
	}
	return code
}

type maskedWord struct{ mask, value uint32 }

// prefixWords cuts a prefix into words of four bytes; those without a fixed bit are left out at the end.
func prefixWords(p netip.Prefix) []maskedWord {
	if !p.IsValid() {
		return nil
	}
	var words []maskedWord
	addr := p.Masked().Addr().AsSlice()
	for i, bits := 0, p.Bits(); bits > 0; i, bits = i+4, bits-32 {
		mask := ^uint32(0) << max(0, 32-bits)
		value := uint32(addr[i])<<24 | uint32(addr[i+1])<<16 | uint32(addr[i+2])<<8 | uint32(addr[i+3])
		words = append(words, maskedWord{mask, value})
	}
	return words
}
