package kexttest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// effects1 are the verdicts of protocol v1.
func effects1() map[int]effect {
	return map[int]effect{
		-2: {intercepttest.Passed, false}, 2: {intercepttest.Passed, true},
		-3: {intercepttest.Refused, false}, 3: {intercepttest.Refused, true},
		-4: {intercepttest.Lost, false}, 4: {intercepttest.Lost, true},
		5: {intercepttest.Rerouted, true}, 6: {intercepttest.Rerouted, true}, 8: {intercepttest.Rerouted, true},
	}
}

// Flags of a request of protocol v1.
const (
	FastTracked       = 1
	SocketAuth        = 2
	ExpectsSocketAuth = 4
)

// receiveTimeout is how long the driver lets the client wait for a request before it answers that there is none.
const receiveTimeout = 50 * time.Millisecond

// Ioctl is a driver of protocol v1. Its methods may be called from any goroutine.
type Ioctl struct {
	kernel
	version [4]byte
	stats   []ioctl.Stat
	noStats error
	ended   bool
}

// NewIoctl returns a driver of this version.
func NewIoctl(version [4]byte) *Ioctl {
	d := &Ioctl{version: version}
	d.init()
	return d
}

// Open opens the device.
func (d *Ioctl) Open() (*IoctlDevice, error) {
	if err := d.openDevice(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = false
	return &IoctlDevice{d}, nil
}

// Send sends a packet through the driver. Of a packet with the flag SocketAuth nothing ever becomes.
func (d *Ioctl) Send(p Packet) *Sent {
	return d.send(p, func(id uint64) []byte {
		return ioctl.AppendRequest(nil, &ioctl.Request{
			ID: uint32(id), PID: p.PID, Direction: p.Info.Direction, Version: p.Info.Version, Flags: p.Flags, Tuple: p.Info.Tuple,
			Interface: p.Info.Interface, PacketSize: uint32(len(p.Bytes)),
		})
	})
}

// Inject makes the client's next requests return these bytes, 72 at a time or what is left.
func (d *Ioctl) Inject(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queueLocked(b)
}

// Used notes what connections transferred, for the next time the client asks.
func (d *Ioctl) Used(s ...ioctl.Stat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats = append(d.stats, s...)
}

// FailStats makes questions for statistics fail.
func (d *Ioctl) FailStats(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noStats = err
}

// IoctlDevice is an opened Ioctl.
type IoctlDevice struct{ d *Ioctl }

// Control serves the functions by the protocol's table.
func (h *IoctlDevice) Control(code uint32, in, out []byte) (int, error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usableLocked(); err != nil {
		return 0, err
	}
	if code == 0x9c40e008 {
		return d.receiveLocked(in, out)
	}
	d.commands = append(d.commands, Command{Code: code, Data: append([]byte(nil), in...)})
	sizes := map[uint32]int{
		0x9c40e000: 0, 0x9c40e004: 0, 0x9c40e00c: 8, 0x9c40e010: 8, 0x9c40e014: 0, 0x9c40e018: 40, 0x9c40e01c: 8,
	}
	if size, ok := sizes[code]; !ok || size != len(in) {
		return 0, d.faultLocked("control code %#x with % x", code, in)
	}
	switch code {
	case 0x9c40e000:
		return copy(out, d.version[:]), nil
	case 0x9c40e004:
		d.ended = true
		d.changed.Broadcast()
	case 0x9c40e00c:
		if in[5] != 0 || in[6] != 0 || in[7] != 0 {
			return 0, d.faultLocked("padding % x", in)
		}
		return 0, d.decideLocked(uint64(binary.LittleEndian.Uint32(in)), int(int8(in[4])), effects1())
	case 0x9c40e010:
		return d.payloadLocked(in, out)
	case 0x9c40e014:
		clear(d.stored)
	case 0x9c40e018:
		return 0, d.updateLocked(tuple1(in), int(in[38]), effects1())
	case 0x9c40e01c:
		return d.statsLocked(int(binary.LittleEndian.Uint64(in)), out)
	}
	return 0, nil
}

// tuple1 reads the connection of an update.
func tuple1(b []byte) packet.Tuple {
	address := func(b []byte) netip.Addr {
		var a [16]byte
		for i := range a {
			a[i] = b[i/4*4+3-i%4] // each word is swapped
		}
		return netip.AddrFrom16(a)
	}
	if v6 := b[36] == 1; !v6 {
		address = func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}) }
	}
	return packet.Tuple{
		Protocol: packet.Protocol(b[37]),
		Local:    netip.AddrPortFrom(address(b[:16]), binary.LittleEndian.Uint16(b[32:])),
		Remote:   netip.AddrPortFrom(address(b[16:32]), binary.LittleEndian.Uint16(b[34:])),
	}
}

// receiveLocked waits for a request, for a while.
func (d *Ioctl) receiveLocked(in, out []byte) (int, error) {
	if len(in) != 0 || len(out) != 72 {
		return 0, d.faultLocked("receive with %d bytes in and room for %d", len(in), len(out))
	}
	late := false
	timer := time.AfterFunc(receiveTimeout, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		late = true
		d.changed.Broadcast()
	})
	defer timer.Stop()
	for len(d.queue) == 0 || d.broken != nil || !d.open {
		if err := d.usableLocked(); err != nil {
			return 0, err
		}
		if d.ended {
			return 0, fmt.Errorf("%w: receive after the shutdown", ErrRefused)
		}
		if late {
			return 0, nil
		}
		d.changed.Wait()
	}
	n := copy(out, d.queue)
	d.queue = d.queue[n:]
	return n, nil
}

func (d *Ioctl) payloadLocked(in, out []byte) (int, error) {
	id, length := binary.LittleEndian.Uint32(in), binary.LittleEndian.Uint32(in[4:])
	w := d.waiting[uint64(id)]
	if w == nil || int(length) != len(out) {
		return 0, d.faultLocked("payload of packet %d, %d bytes in room for %d", id, length, len(out))
	}
	return copy(out, w.packet.Bytes), nil
}

func (d *Ioctl) statsLocked(entries int, out []byte) (int, error) {
	if d.noStats != nil {
		return 0, d.noStats
	}
	if entries*64 > len(out) {
		return 0, d.faultLocked("statistics for %d connections in %d bytes", entries, len(out))
	}
	n := min(entries, len(d.stats))
	var b []byte
	for i := range n {
		b = ioctl.AppendStat(b, &d.stats[i])
	}
	d.stats = d.stats[n:]
	return copy(out, b), nil
}

// Close ends all calls.
func (h *IoctlDevice) Close() error {
	h.d.closeDevice()
	return nil
}
