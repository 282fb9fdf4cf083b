package stream

import (
	"encoding/binary"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

// AppendLog is the driver's side: it appends a log line.
func AppendLog(b []byte, l Log) []byte {
	b, at := begin(b, KindLog)
	b = append(b, byte(l.Severity))
	return finish(append(b, l.Text...), at)
}

// AppendConnection is the driver's side: it appends a packet that waits for a verdict, as KindConnection4 or KindConnection6.
func AppendConnection(b []byte, kind Kind, c *Connection) []byte {
	b, at := begin(b, kind)
	b = binary.LittleEndian.AppendUint64(b, c.ID)
	b = binary.LittleEndian.AppendUint64(b, c.PID)
	b = append(b, byte(c.Direction), byte(c.Tuple.Protocol))
	b = appendEnds(b, kind, &c.Tuple)
	b = append(b, byte(c.Layer))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Payload)))
	return finish(append(b, c.Payload...), at)
}

// AppendEnd is the driver's side: it appends the end of a connection, as KindEnd4 or KindEnd6.
func AppendEnd(b []byte, kind Kind, e *End) []byte {
	b, at := begin(b, kind)
	b = binary.LittleEndian.AppendUint64(b, e.PID)
	b = append(b, byte(e.Direction), byte(e.Tuple.Protocol))
	return finish(appendEnds(b, kind, &e.Tuple), at)
}

// AppendBandwidth is the driver's side: it appends what connections of one protocol transferred, as KindBandwidth4 or
// KindBandwidth6. The protocols of the tuples do not count.
func AppendBandwidth(b []byte, kind Kind, protocol packet.Protocol, usage []Usage) []byte {
	b, at := begin(b, kind)
	b = append(b, byte(protocol))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(usage)))
	for _, u := range usage {
		b = kextwire.AppendAddr(b, u.Tuple.Local.Addr(), kind.version())
		b = binary.LittleEndian.AppendUint16(b, u.Tuple.Local.Port())
		b = kextwire.AppendAddr(b, u.Tuple.Remote.Addr(), kind.version())
		b = binary.LittleEndian.AppendUint16(b, u.Tuple.Remote.Port())
		b = binary.LittleEndian.AppendUint64(b, u.Transmitted)
		b = binary.LittleEndian.AppendUint64(b, u.Received)
	}
	return finish(b, at)
}

// begin appends the head of an info, whose length finish fills in.
func begin(b []byte, kind Kind) (grown []byte, at int) {
	return append(b, byte(kind), 0, 0, 0, 0), len(b) + 1
}

func finish(b []byte, at int) []byte {
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendEnds(b []byte, kind Kind, t *packet.Tuple) []byte {
	b = kextwire.AppendAddr(b, t.Local.Addr(), kind.version())
	b = kextwire.AppendAddr(b, t.Remote.Addr(), kind.version())
	b = binary.LittleEndian.AppendUint16(b, t.Local.Port())
	return binary.LittleEndian.AppendUint16(b, t.Remote.Port())
}
