package ioctl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

// Control codes of the functions, besides kextwire.CodeVersion.
const (
	// CodeShutdown ends the driver's work. Nothing goes in or out.
	CodeShutdown uint32 = kextwire.CodeVersion + (iota+1)*kextwire.CodeStep
	// CodeReceive waits for a Request, which comes out. No bytes come out if there was none for a while.
	CodeReceive
	// CodeSetVerdict takes a VerdictSet.
	CodeSetVerdict
	// CodeGetPayload takes a PayloadGet; the packet's bytes come out. No bytes are an error.
	CodeGetPayload
	// CodeClearCache makes the driver forget all stored verdicts. Nothing goes in or out.
	CodeClearCache
	// CodeUpdateVerdict takes an Update.
	CodeUpdateVerdict
	// CodeGetStats takes the number of entries for which there is room, as u64; as many Stats come out, or fewer.
	CodeGetStats
)

// Sizes of the structs.
const (
	RequestSize    = 72
	VerdictSetSize = 8
	PayloadGetSize = 8
	UpdateSize     = 40
	StatSize       = 64
	StatsGetSize   = 8
)

// Flags of a Request.
const (
	// FlagFastTracked tells that the driver let the packet through already.
	FlagFastTracked uint8 = 1
	// FlagSocketAuth tells that there is no packet, only the information that a process opened a socket.
	FlagSocketAuth uint8 = 2
	// FlagExpectsSocketAuth tells that the next request is expected to be the socket-auth one of the same connection.
	FlagExpectsSocketAuth uint8 = 4
)

// Request is a packet that waits for its verdict, or a socket that was opened.
type Request struct {
	// ID names the packet in its verdict, 0 if there is no packet.
	ID uint32
	// PID is the process, 0 if the driver does not know it.
	PID       uint64
	Direction packet.Direction
	// Version of IP, 4 or 6.
	Version uint8
	// Flags are a sum of the constants.
	Flags uint8
	Tuple packet.Tuple
	// Compartment, Interface and SubInterface are indices of Windows.
	Compartment, Interface, SubInterface uint32
	// PacketSize is the length of the whole packet.
	PacketSize uint32
}

// DecodeRequest reads a request. The error wraps kextwire.ErrSize.
func DecodeRequest(b []byte, r *Request) error {
	if len(b) != RequestSize {
		return fmt.Errorf("%w: verdict request of %d bytes, not %d", kextwire.ErrSize, len(b), RequestSize)
	}
	r.ID = binary.LittleEndian.Uint32(b)
	r.PID = binary.LittleEndian.Uint64(b[8:])
	r.Direction = packet.Outbound
	if b[16] > 0 {
		r.Direction = packet.Inbound
	}
	r.Version = version(b[17])
	r.Tuple.Protocol = packet.Protocol(b[18])
	r.Flags = b[19]
	r.Tuple.Local = netip.AddrPortFrom(addr(b[20:], r.Version), binary.LittleEndian.Uint16(b[52:]))
	r.Tuple.Remote = netip.AddrPortFrom(addr(b[36:], r.Version), binary.LittleEndian.Uint16(b[54:]))
	r.Compartment = binary.LittleEndian.Uint32(b[56:])
	r.Interface = binary.LittleEndian.Uint32(b[60:])
	r.SubInterface = binary.LittleEndian.Uint32(b[64:])
	r.PacketSize = binary.LittleEndian.Uint32(b[68:])
	return nil
}

// AppendRequest is the driver's side.
func AppendRequest(b []byte, r *Request) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.ID)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, r.PID)
	b = append(b, byte(r.Direction), flag6(r.Version), byte(r.Tuple.Protocol), r.Flags)
	b = appendEnds(b, &r.Tuple, r.Version)
	b = binary.LittleEndian.AppendUint32(b, r.Compartment)
	b = binary.LittleEndian.AppendUint32(b, r.Interface)
	b = binary.LittleEndian.AppendUint32(b, r.SubInterface)
	return binary.LittleEndian.AppendUint32(b, r.PacketSize)
}

// VerdictSet is the input of CodeSetVerdict.
type VerdictSet struct {
	// ID is Request.ID.
	ID uint32
	// Verdict is a number of package verdict: positive for the connection, negative for this packet only.
	Verdict int8
}

// AppendVerdictSet appends the struct.
func AppendVerdictSet(b []byte, v VerdictSet) []byte {
	b = binary.LittleEndian.AppendUint32(b, v.ID)
	return append(b, byte(v.Verdict), 0, 0, 0)
}

// DecodeVerdictSet is the driver's side. The error wraps kextwire.ErrSize.
func DecodeVerdictSet(b []byte) (VerdictSet, error) {
	if len(b) != VerdictSetSize {
		return VerdictSet{}, fmt.Errorf("%w: verdict of %d bytes, not %d", kextwire.ErrSize, len(b), VerdictSetSize)
	}
	return VerdictSet{ID: binary.LittleEndian.Uint32(b), Verdict: int8(b[4])}, nil
}

// PayloadGet is the input of CodeGetPayload.
type PayloadGet struct {
	// ID is Request.ID.
	ID uint32
	// Length is how many bytes are wanted.
	Length uint32
}

// AppendPayloadGet appends the struct.
func AppendPayloadGet(b []byte, p PayloadGet) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.ID)
	return binary.LittleEndian.AppendUint32(b, p.Length)
}

// DecodePayloadGet is the driver's side. The error wraps kextwire.ErrSize.
func DecodePayloadGet(b []byte) (PayloadGet, error) {
	if len(b) != PayloadGetSize {
		return PayloadGet{}, fmt.Errorf("%w: payload request of %d bytes, not %d", kextwire.ErrSize, len(b), PayloadGetSize)
	}
	return PayloadGet{ID: binary.LittleEndian.Uint32(b), Length: binary.LittleEndian.Uint32(b[4:])}, nil
}

// Update is the input of CodeUpdateVerdict: the driver replaces the stored verdict of a connection.
type Update struct {
	Tuple packet.Tuple
	// Version of IP, 4 or 6. AppendUpdate takes it from the addresses.
	Version uint8
	// Verdict is a number of package verdict, for the connection.
	Verdict uint8
}

// AppendUpdate appends the struct. The error wraps kextwire.ErrAddress.
func AppendUpdate(b []byte, t *packet.Tuple, verdict uint8) ([]byte, error) {
	v, err := kextwire.IPVersion(t)
	if err != nil {
		return b, err
	}
	b = appendEnds(b, t, v)
	return append(b, flag6(v), byte(t.Protocol), verdict, 0), nil
}

// DecodeUpdate is the driver's side. The error wraps kextwire.ErrSize.
func DecodeUpdate(b []byte) (Update, error) {
	if len(b) != UpdateSize {
		return Update{}, fmt.Errorf("%w: update of %d bytes, not %d", kextwire.ErrSize, len(b), UpdateSize)
	}
	u := Update{Version: version(b[36]), Verdict: b[38]}
	u.Tuple = ends(b, u.Version)
	u.Tuple.Protocol = packet.Protocol(b[37])
	return u, nil
}

// Stat is what a connection transferred since the last question.
type Stat struct {
	Tuple packet.Tuple
	// Version of IP, 4 or 6.
	Version uint8
	// Received and Transmitted are bytes.
	Received, Transmitted uint64
}

// AppendStatsGet appends the input of CodeGetStats.
func AppendStatsGet(b []byte, entries uint64) []byte {
	return binary.LittleEndian.AppendUint64(b, entries)
}

// DecodeStatsGet is the driver's side. The error wraps kextwire.ErrSize.
func DecodeStatsGet(b []byte) (entries uint64, err error) {
	if len(b) != StatsGetSize {
		return 0, fmt.Errorf("%w: request for statistics of %d bytes, not %d", kextwire.ErrSize, len(b), StatsGetSize)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// CountStats returns how many Stats are in b. The error wraps kextwire.ErrSize.
func CountStats(b []byte) (int, error) {
	if len(b)%StatSize != 0 {
		return 0, fmt.Errorf("%w: statistics of %d bytes, no multiple of %d", kextwire.ErrSize, len(b), StatSize)
	}
	return len(b) / StatSize, nil
}

// StatAt returns entry n of statistics that CountStats has counted.
func StatAt(b []byte, n int) Stat {
	b = b[n*StatSize:][:StatSize]
	s := Stat{
		Version:     version(b[56]),
		Received:    binary.LittleEndian.Uint64(b[40:]),
		Transmitted: binary.LittleEndian.Uint64(b[48:]),
	}
	s.Tuple = ends(b, s.Version)
	s.Tuple.Protocol = packet.Protocol(b[57])
	return s
}

// AppendStat is the driver's side.
func AppendStat(b []byte, s *Stat) []byte {
	b = appendEnds(b, &s.Tuple, s.Version)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, s.Received)
	b = binary.LittleEndian.AppendUint64(b, s.Transmitted)
	return append(b, flag6(s.Version), byte(s.Tuple.Protocol), 0, 0, 0, 0, 0, 0)
}

func version(flag byte) uint8 {
	if flag != 0 {
		return 6
	}
	return 4
}

func flag6(version uint8) byte {
	if version == 6 {
		return 1
	}
	return 0
}

// ends reads both addresses and then both ports, which every struct but Request begins with.
func ends(b []byte, version uint8) packet.Tuple {
	return packet.Tuple{
		Local:  netip.AddrPortFrom(addr(b, version), binary.LittleEndian.Uint16(b[32:])),
		Remote: netip.AddrPortFrom(addr(b[16:], version), binary.LittleEndian.Uint16(b[34:])),
	}
}

func appendEnds(b []byte, t *packet.Tuple, version uint8) []byte {
	b = appendAddr(b, t.Local.Addr(), version)
	b = appendAddr(b, t.Remote.Addr(), version)
	b = binary.LittleEndian.AppendUint16(b, t.Local.Port())
	return binary.LittleEndian.AppendUint16(b, t.Remote.Port())
}

const (
	addrSize = 16
	wordSize = 4
)

// addr reads an address, of which IPv4 has the first word.
func addr(b []byte, version uint8) netip.Addr {
	var a [addrSize]byte
	for i := 0; i < addrSize; i += wordSize {
		binary.BigEndian.PutUint32(a[i:], binary.LittleEndian.Uint32(b[i:]))
	}
	if version == 6 {
		return kextwire.Addr(a[:])
	}
	return kextwire.Addr(a[:wordSize])
}

func appendAddr(b []byte, ip netip.Addr, version uint8) []byte {
	var a [addrSize]byte
	kextwire.AppendAddr(a[:0], ip, version)
	for i := 0; i < addrSize; i += wordSize {
		b = binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(a[i:]))
	}
	return b
}
