package kextv1

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// statsEntries is for how many connections there is room in one answer, statsRounds how often it is asked for more.
	statsEntries = 1024
	statsRounds  = 64
	// maxPacket is the length of the longest IP packet: 64 KiB behind an IPv6 header.
	maxPacket = 40 + 1<<16 - 1
)

// numbers are the driver's verdicts, by action: those of package verdict, negative for this packet only.
var numbers = [verdict.NumActions]int8{
	verdict.ActionDrop:                 -int8(verdict.Drop),
	verdict.ActionBlock:                -int8(verdict.Block),
	verdict.ActionAccept:               -int8(verdict.Accept),
	verdict.ActionPermanentDrop:        int8(verdict.Drop),
	verdict.ActionPermanentBlock:       int8(verdict.Block),
	verdict.ActionPermanentAccept:      int8(verdict.Accept),
	verdict.ActionPermanentAcceptFinal: int8(verdict.Accept),
	verdict.ActionRerouteToNameserver:  int8(verdict.RerouteToNameserver),
	verdict.ActionRerouteToTunnel:      int8(verdict.RerouteToTunnel),
	verdict.ActionRerouteToSplitTun:    int8(verdict.RerouteToSplitTun),
}

// errNoBytes is of a driver that has no payload for a packet.
var errNoBytes = errors.New("the driver has no bytes of the packet")

// conversation implements kextcore.Protocol.
type conversation struct {
	dev Device

	// What follows is the reader's.
	buf      [ioctl.RequestSize]byte
	request  ioctl.Request
	delivery kextcore.Delivery

	// What follows is the housekeeper's.
	question    []byte
	stats       []byte
	usage       []intercept.Usage
	failedStats int
}

var _ kextcore.Loader = (*conversation)(nil)

func newConversation(dev Device) *conversation {
	return &conversation{
		dev:      dev,
		question: ioctl.AppendStatsGet(nil, statsEntries),
		stats:    make([]byte, statsEntries*ioctl.StatSize),
	}
}

// Receive implements kextcore.Protocol.
func (c *conversation) Receive(s *kextcore.Session) error {
	began := time.Now()
	n, err := c.dev.Control(ioctl.CodeReceive, nil, c.buf[:])
	switch {
	case err != nil:
		return fmt.Errorf("receive a verdict request: %w", err)
	case n == 0:
		s.Idle(began) // nothing came for a while
		return nil
	}
	if err := ioctl.DecodeRequest(c.buf[:n], &c.request); err != nil {
		s.Bad(err)
		s.Idle(began)
		return nil
	}
	c.deliver(s, &c.request)
	return nil
}

func (c *conversation) deliver(s *kextcore.Session, r *ioctl.Request) {
	d := &c.delivery
	*d = kextcore.Delivery{
		ID:          uint64(r.ID),
		FastTracked: r.Flags&ioctl.FlagFastTracked != 0,
		InfoOnly:    r.Flags&ioctl.FlagSocketAuth != 0,
		ExpectsInfo: r.Flags&ioctl.FlagExpectsSocketAuth != 0,
	}
	d.Info.Tuple, d.Info.Direction, d.Info.Interface = r.Tuple, r.Direction, r.Interface
	d.Info.Version = 6
	if r.Tuple.Is4() {
		d.Info.Version = 4
	}
	if r.PID <= math.MaxInt32 {
		d.Info.PID = int(r.PID)
	}
	d.Info.Length = int(min(r.PacketSize, math.MaxInt32))
	if !d.InfoOnly {
		d.Info.HeaderLength = min(headers(&d.Info), d.Info.Length)
	}
	switch {
	case r.PID != 0:
		d.Answer = kextcore.AnswerNone
	case r.ID == 0:
		d.Answer = kextcore.AnswerImpossible
	}
	if r.ID != 0 {
		d.Loader = c
	}
	s.Deliver(d)
}

// headers is the length of the packet's headers without options, which the driver does not tell.
func headers(i *packet.Info) int {
	n := 40
	if i.Version == 4 {
		n = 20
	}
	switch i.Protocol {
	case packet.TCP:
		n += 20
	case packet.SCTP:
		n += 12
	case packet.UDP, packet.UDPLite, packet.ICMP, packet.ICMPv6:
		n += 8
	}
	return n
}

// Load implements kextcore.Loader.
func (c *conversation) Load(id uint64, length int) ([]byte, error) {
	if length <= 0 || length > maxPacket {
		return nil, fmt.Errorf("%w: packet of %d bytes", kextwire.ErrSize, length)
	}
	b := make([]byte, length)
	n, err := c.dev.Control(ioctl.CodeGetPayload, ioctl.AppendPayloadGet(nil, ioctl.PayloadGet{ID: uint32(id), Length: uint32(length)}), b)
	switch {
	case err != nil:
		return nil, fmt.Errorf("get a payload: %w", err)
	case n <= 0 || n > length:
		return nil, errNoBytes
	}
	return b[:n], nil
}

// Verdict implements kextcore.Protocol.
func (c *conversation) Verdict(id uint64, action verdict.Action, scratch *kextcore.Scratch) error {
	b := ioctl.AppendVerdictSet(scratch[:0], ioctl.VerdictSet{ID: uint32(id), Verdict: numbers[action]})
	return c.control("set a verdict", ioctl.CodeSetVerdict, b)
}

// Update implements kextcore.Protocol.
func (c *conversation) Update(t *packet.Tuple, action verdict.Action) error {
	b, err := ioctl.AppendUpdate(nil, t, uint8(numbers[action]))
	if err != nil {
		return err
	}
	return c.control("update a verdict", ioctl.CodeUpdateVerdict, b)
}

// ClearCache implements kextcore.Protocol.
func (c *conversation) ClearCache() error {
	return c.control("clear the cache", ioctl.CodeClearCache, nil)
}

// Shutdown implements kextcore.Protocol.
func (c *conversation) Shutdown() error {
	return c.control("request the shutdown", ioctl.CodeShutdown, nil)
}

// control is for what has no answer.
func (c *conversation) control(op string, code uint32, in []byte) error {
	if _, err := c.dev.Control(code, in, nil); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// Housekeep implements kextcore.Protocol. Nothing depends on statistics: a driver that has none goes on without, and the
// logger hears of it ever more rarely.
func (c *conversation) Housekeep(_ int, s *kextcore.Session) error {
	if !s.WantsReports() {
		return nil
	}
	for range statsRounds {
		n, err := c.report(s)
		if err != nil {
			if c.failedStats++; c.failedStats&(c.failedStats-1) == 0 {
				s.Warn("get connection statistics", err)
			}
			return nil
		}
		if n < statsEntries {
			break
		}
	}
	c.failedStats = 0
	return nil
}

// report passes on one answer and returns how many connections it was about.
func (c *conversation) report(s *kextcore.Session) (int, error) {
	size, err := c.dev.Control(ioctl.CodeGetStats, c.question, c.stats)
	if err != nil {
		return 0, fmt.Errorf("device: %w", err)
	}
	n, err := ioctl.CountStats(c.stats[:size])
	if err != nil {
		return 0, err
	}
	c.usage = c.usage[:0]
	for i := range n {
		st := ioctl.StatAt(c.stats, i)
		c.usage = append(c.usage, intercept.Usage{Tuple: st.Tuple, ReceivedBytes: st.Received, SentBytes: st.Transmitted})
	}
	s.ReportUsage(c.usage)
	return n, nil
}

// Close implements kextcore.Protocol.
func (c *conversation) Close() error {
	if err := c.dev.Close(); err != nil {
		return fmt.Errorf("close the device: %w", err)
	}
	return nil
}
