package kexttest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// effects2 are the verdicts of protocol v2. 0 and 1 may not be told; 10 only in an update, but the driver understands it.
func effects2() map[int]effect {
	return map[int]effect{
		2: {intercepttest.Passed, false}, 3: {intercepttest.Passed, true},
		4: {intercepttest.Refused, false}, 5: {intercepttest.Refused, true},
		6: {intercepttest.Lost, false}, 7: {intercepttest.Lost, true},
		8: {intercepttest.Rerouted, true}, 9: {intercepttest.Rerouted, true},
		10: {intercepttest.Lost, true}, 11: {intercepttest.Rerouted, true},
	}
}

// Stream is a driver of protocol v2. Its methods may be called from any goroutine.
type Stream struct {
	kernel
	version [4]byte
	chop    int
	usage   []stream.Usage
	ended   bool
}

// NewStream returns a driver of this version whose reads return at most chop bytes, or as many as wait if chop is 0.
func NewStream(version [4]byte, chop int) *Stream {
	d := &Stream{version: version, chop: chop}
	d.init()
	return d
}

// Open opens the device.
func (d *Stream) Open() (*StreamDevice, error) {
	if err := d.openDevice(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = false
	return &StreamDevice{d}, nil
}

// Send sends a packet through the driver.
func (d *Stream) Send(p Packet) *Sent {
	return d.send(p, func(id uint64) []byte {
		c := stream.Connection{ID: id, PID: p.PID, Direction: p.Info.Direction, Tuple: p.Info.Tuple, Layer: stream.Layer(p.Layer)}
		kind := stream.KindConnection4
		header := 20
		if p.Info.Version == 6 {
			kind, header = stream.KindConnection6, 40
		}
		switch p.Layer {
		case 3:
			c.Payload = p.Bytes
		case 4:
			c.Payload = p.Bytes[header:]
		}
		return stream.AppendConnection(nil, kind, &c)
	})
}

// Inject makes the client read these bytes.
func (d *Stream) Inject(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queueLocked(b)
}

// End tells the client that a connection ended.
func (d *Stream) End(e stream.End) {
	kind := stream.KindEnd6
	if e.Tuple.Is4() {
		kind = stream.KindEnd4
	}
	d.Inject(stream.AppendEnd(nil, kind, &e))
}

// Used notes what IPv4 UDP connections transferred, for the next time the client asks.
func (d *Stream) Used(u ...stream.Usage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.usage = append(d.usage, u...)
}

// StreamDevice is an opened Stream.
type StreamDevice struct{ d *Stream }

// Read waits until there is something.
func (h *StreamDevice) Read(b []byte) (int, error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 || d.broken != nil || !d.open {
		if err := d.usableLocked(); err != nil {
			return 0, err
		}
		if d.ended {
			return 0, fmt.Errorf("%w: read after the shutdown", ErrRefused)
		}
		d.changed.Wait()
	}
	if d.chop > 0 && len(b) > d.chop {
		b = b[:d.chop]
	}
	n := copy(b, d.queue)
	d.queue = d.queue[n:]
	return n, nil
}

// Write takes one command.
func (h *StreamDevice) Write(b []byte) (int, error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(); err != nil {
		return 0, err
	}
	d.commands = append(d.commands, Command{Data: append([]byte(nil), b...)})
	if err := d.commandLocked(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// StartWrite is Write: this driver takes no time.
func (h *StreamDevice) StartWrite(b []byte) (interface{ Wait() error }, error) {
	if _, err := h.Write(b); err != nil {
		return failed{err}, nil // as a driver refuses: not at once
	}
	return failed{}, nil
}

type failed struct{ err error }

// Wait says that the write failed.
func (f failed) Wait() error { return f.err }

// commandLocked reads a command by the protocol's table.
func (d *Stream) commandLocked(b []byte) error {
	sizes := map[byte]int{0: 1, 1: 10, 2: 15, 3: 39, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1}
	if len(b) == 0 || sizes[b[0]] != len(b) {
		return d.faultLocked("command % x", b)
	}
	switch b[0] {
	case 0:
		d.ended = true
		d.changed.Broadcast()
	case 1:
		return d.decideLocked(binary.LittleEndian.Uint64(b[1:9]), int(b[9]), effects2())
	case 2:
		return d.updateLocked(packet.Tuple{
			Protocol: packet.Protocol(b[1]),
			Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[2:6])), binary.LittleEndian.Uint16(b[6:8])),
			Remote:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), binary.LittleEndian.Uint16(b[12:14])),
		}, int(b[14]), effects2())
	case 3:
		return d.updateLocked(packet.Tuple{
			Protocol: packet.Protocol(b[1]),
			Local:    netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[2:18])), binary.LittleEndian.Uint16(b[18:20])),
			Remote:   netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[20:36])), binary.LittleEndian.Uint16(b[36:38])),
		}, int(b[38]), effects2())
	case 4:
		clear(d.stored)
	case 5:
		d.queueLocked([]byte{0, 4, 0, 0, 0, 2, 'l', 'o', 'g'})
	case 6:
		d.queueLocked(stream.AppendBandwidth(nil, stream.KindBandwidth4, packet.UDP, d.usage))
		d.usage = nil
	case 7:
		d.queueLocked([]byte{0, 4, 0, 0, 0, 3, 'm', 'e', 'm'})
	}
	return nil
}

// Control knows the control code of the version only.
func (h *StreamDevice) Control(code uint32, _, out []byte) (int, error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(); err != nil {
		return 0, err
	}
	if code != 0x9c40e000 {
		return 0, d.faultLocked("control code %#x", code)
	}
	return copy(out, d.version[:]), nil
}

// Close ends all calls.
func (h *StreamDevice) Close() error {
	h.d.closeDevice()
	return nil
}
