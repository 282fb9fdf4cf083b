package nfq

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// queueLine is what /proc/net/netfilter/nfnetlink_queue tells of a queue.
type queueLine struct {
	portID uint32
	drops  kernelDrops
}

// queueLine returns the line of our queue; ok is false if nobody reads it.
func (p *socketPort) queueLine() (line queueLine, ok bool) {
	buf := make([]byte, 16<<10) // some 200 queues
	n, err := p.stats.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return queueLine{}, false
	}
	for l := range bytes.Lines(buf[:n]) {
		var number uint16
		var total, mode, copyRange uint32
		_, err := fmt.Sscan(string(l), &number, &line.portID, &total, &mode, &copyRange, &line.drops.kernel, &line.drops.user)
		if err == nil && number == p.number {
			return line, true
		}
	}
	return queueLine{}, false
}

// drops implements port.
func (p *socketPort) drops() kernelDrops {
	line, _ := p.queueLine()
	return line.drops
}
