package intercepttest

import (
	"sync"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// judge is the handler of the conformance tests: each flow has its own way of
// being decided. Packets of nobody's flow are accepted, because a real network
// has those too.
type judge struct {
	mu    sync.Mutex // guards cases
	cases map[packet.Tuple]*trial
}

// trial is what the judge does with a flow, and what it saw of it.
type trial struct {
	// lookup is the answer of Lookup, if decided.
	decided bool
	lookup  verdict.Action
	handle  func(packet.Packet)

	mu     sync.Mutex // guards what follows
	looked int
	handed int
	info   packet.Info // of the last packet
}

func newJudge() *judge { return &judge{cases: make(map[packet.Tuple]*trial)} }

func (j *judge) add(t packet.Tuple, c *trial) *trial {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cases[t] = c
	return c
}

func (j *judge) find(t packet.Tuple) *trial {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cases[t]
}

// Lookup implements intercept.Handler.
func (j *judge) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	c := j.find(i.Tuple)
	if c == nil {
		return verdict.ActionAccept, 0, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked++
	c.info = *i
	return c.lookup, 0, c.decided
}

// Handle implements intercept.Handler.
func (j *judge) Handle(p packet.Packet) {
	c := j.find(p.Info().Tuple)
	if c == nil {
		_ = p.Accept() // nobody's
		return
	}
	c.mu.Lock()
	c.handed++
	handle := c.handle
	c.mu.Unlock()
	if handle != nil {
		handle(p)
	}
}

// seen returns how many packets Lookup and Handle got.
func (c *trial) seen() (looked, handed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looked, c.handed
}

func (c *trial) lastInfo() packet.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// deciding handles packets with one action.
func deciding(a verdict.Action, report func(error)) func(packet.Packet) {
	return func(p packet.Packet) {
		if err := packet.Apply(p, a, 0); err != nil {
			report(err)
		}
	}
}

// holding hands packets to the test.
func holding() (func(packet.Packet), <-chan packet.Packet) {
	held := make(chan packet.Packet, 16)
	return func(p packet.Packet) { held <- p }, held
}
