package stream

import (
	"encoding/binary"
	"fmt"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

// Verdict is a verdict as the driver numbers it. The numbers are not those of package verdict.
type Verdict uint8

// The driver's verdicts.
const (
	VerdictUndecided           Verdict = 0
	VerdictUndeterminable      Verdict = 1
	VerdictAccept              Verdict = 2
	VerdictPermanentAccept     Verdict = 3
	VerdictBlock               Verdict = 4
	VerdictPermanentBlock      Verdict = 5
	VerdictDrop                Verdict = 6
	VerdictPermanentDrop       Verdict = 7
	VerdictRerouteToNameserver Verdict = 8
	VerdictRerouteToTunnel     Verdict = 9
	// VerdictFailed makes the driver drop the connection for good. It is for updates.
	VerdictFailed Verdict = 10
	// VerdictRerouteToSplitTun is known to drivers since version 2.1.
	VerdictRerouteToSplitTun Verdict = 11
)

// CommandID names a command.
type CommandID uint8

// The commands. Those of IPv4 and IPv6 differ in the size of addresses only.
const (
	// CommandShutdown ends the driver's work: reads end.
	CommandShutdown CommandID = 0
	// CommandVerdict decides about a packet.
	CommandVerdict CommandID = 1
	// CommandUpdate4 and CommandUpdate6 change the stored verdict of a connection.
	CommandUpdate4 CommandID = 2
	CommandUpdate6 CommandID = 3
	// CommandClearCache makes the driver forget all stored verdicts.
	CommandClearCache CommandID = 4
	// CommandGetLogs makes the driver send its log lines.
	CommandGetLogs CommandID = 5
	// CommandBandwidth makes the driver send what connections transferred.
	CommandBandwidth CommandID = 6
	// CommandMemoryStats makes the driver log what memory it uses.
	CommandMemoryStats CommandID = 7
	// CommandCleanEnded makes the driver forget ended connections.
	CommandCleanEnded CommandID = 8
)

// MaxCommand is the size of the longest command.
const MaxCommand = 1 + 1 + 2*(16+2) + 1

// Command is what is written to the driver.
type Command struct {
	ID CommandID
	// PacketID is the Connection.ID of CommandVerdict.
	PacketID uint64
	// Tuple is the connection of CommandUpdate4 and CommandUpdate6.
	Tuple packet.Tuple
	// Verdict is of CommandVerdict, CommandUpdate4 and CommandUpdate6.
	Verdict Verdict
}

// size returns the size of the command.
func (id CommandID) size() (n int, known bool) {
	switch id {
	case CommandVerdict:
		return 1 + 8 + 1, true
	case CommandUpdate4:
		return 1 + 1 + 2*(4+2) + 1, true
	case CommandUpdate6:
		return MaxCommand, true
	case CommandShutdown, CommandClearCache, CommandGetLogs, CommandBandwidth, CommandMemoryStats, CommandCleanEnded:
		return 1, true
	}
	return 0, false
}

// AppendVerdict appends CommandVerdict.
func AppendVerdict(b []byte, packetID uint64, v Verdict) []byte {
	b = append(b, byte(CommandVerdict))
	b = binary.LittleEndian.AppendUint64(b, packetID)
	return append(b, byte(v))
}

// AppendUpdate appends CommandUpdate4 or CommandUpdate6, as the addresses are. The error wraps kextwire.ErrAddress.
func AppendUpdate(b []byte, t *packet.Tuple, v Verdict) ([]byte, error) {
	version, err := kextwire.IPVersion(t)
	if err != nil {
		return b, err
	}
	if version == 6 {
		return appendUpdate(b, CommandUpdate6, t, v), nil
	}
	return appendUpdate(b, CommandUpdate4, t, v), nil
}

func appendUpdate(b []byte, id CommandID, t *packet.Tuple, v Verdict) []byte {
	version := uint8(4)
	if id == CommandUpdate6 {
		version = 6
	}
	b = append(b, byte(id), byte(t.Protocol))
	b = kextwire.AppendAddr(b, t.Local.Addr(), version)
	b = binary.LittleEndian.AppendUint16(b, t.Local.Port())
	b = kextwire.AppendAddr(b, t.Remote.Addr(), version)
	b = binary.LittleEndian.AppendUint16(b, t.Remote.Port())
	return append(b, byte(v))
}

// AppendCommand appends any command; its ID says which. An unknown one is appended as an ID without a body, which a driver
// does not understand.
func AppendCommand(b []byte, c *Command) []byte {
	switch c.ID {
	case CommandVerdict:
		return AppendVerdict(b, c.PacketID, c.Verdict)
	case CommandUpdate4, CommandUpdate6:
		return appendUpdate(b, c.ID, &c.Tuple, c.Verdict)
	case CommandShutdown, CommandClearCache, CommandGetLogs, CommandBandwidth, CommandMemoryStats, CommandCleanEnded:
	}
	return append(b, byte(c.ID))
}

// DecodeCommand is the driver's side: it reads one write. The error wraps kextwire.ErrSize or kextwire.ErrUnknown.
func DecodeCommand(b []byte, c *Command) error {
	*c = Command{}
	if len(b) == 0 {
		return fmt.Errorf("%w: empty command", kextwire.ErrSize)
	}
	id := CommandID(b[0])
	size, known := id.size()
	switch {
	case !known:
		return fmt.Errorf("%w: command %d", kextwire.ErrUnknown, id)
	case len(b) != size:
		return fmt.Errorf("%w: command %d of %d bytes, not %d", kextwire.ErrSize, id, len(b), size)
	}
	c.ID = id
	switch id {
	case CommandVerdict:
		c.PacketID = binary.LittleEndian.Uint64(b[1:])
	case CommandUpdate4, CommandUpdate6:
		addr := (len(b) - 3 - 2*2) / 2
		c.Tuple.Protocol = packet.Protocol(b[1])
		rest := b[2:]
		c.Tuple.Local, rest = addrPort(rest, addr)
		c.Tuple.Remote, _ = addrPort(rest, addr)
	case CommandShutdown, CommandClearCache, CommandGetLogs, CommandBandwidth, CommandMemoryStats, CommandCleanEnded:
		return nil
	}
	c.Verdict = Verdict(b[len(b)-1])
	return nil
}
