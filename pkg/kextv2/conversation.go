package kextv2

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// readSize is how much is read at once. Longer infos come in parts.
	readSize = 64 << 10
	// cleanEvery is how many seconds lie between two commands to forget ended connections.
	cleanEvery = 30
	// maxEmptyReads is how many reads in a row may bring nothing, at once, before the device counts as broken.
	maxEmptyReads = 100
	// maxReport is how many connections are reported to the handler in one call.
	maxReport = 1024
)

// numbers are the driver's verdicts, by action.
var numbers = [verdict.NumActions]stream.Verdict{
	verdict.ActionDrop:                 stream.VerdictDrop,
	verdict.ActionBlock:                stream.VerdictBlock,
	verdict.ActionAccept:               stream.VerdictAccept,
	verdict.ActionPermanentDrop:        stream.VerdictPermanentDrop,
	verdict.ActionPermanentBlock:       stream.VerdictPermanentBlock,
	verdict.ActionPermanentAccept:      stream.VerdictPermanentAccept,
	verdict.ActionPermanentAcceptFinal: stream.VerdictPermanentAccept,
	verdict.ActionRerouteToNameserver:  stream.VerdictRerouteToNameserver,
	verdict.ActionRerouteToTunnel:      stream.VerdictRerouteToTunnel,
	verdict.ActionRerouteToSplitTun:    stream.VerdictRerouteToSplitTun,
}

// levels are what the severities of the driver's log lines, from trace to critical, are to slog.
var levels = [...]slog.Level{
	stream.SeverityTrace:    slog.LevelDebug - 4,
	stream.SeverityDebug:    slog.LevelDebug,
	stream.SeverityInfo:     slog.LevelInfo,
	stream.SeverityWarning:  slog.LevelWarn,
	stream.SeverityError:    slog.LevelError,
	stream.SeverityCritical: slog.LevelError + 4,
}

// conversation implements kextcore.Protocol.
type conversation struct {
	dev   Device
	split bool // the driver knows the split tunnel

	// What follows is the reader's.
	buf      []byte
	decoder  stream.Decoder
	info     stream.Info
	delivery kextcore.Delivery
	usage    []intercept.Usage
	empty    int // reads in a row that brought nothing
	verdicts overlapped
}

func newConversation(dev Device, split bool) *conversation {
	c := &conversation{dev: dev, split: split, buf: make([]byte, readSize)}
	c.verdicts.dev, _ = dev.(starter)
	return c
}

// Receive implements kextcore.Protocol.
func (c *conversation) Receive(s *kextcore.Session) error {
	began := time.Now()
	n, err := c.dev.Read(c.buf)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		if c.empty++; c.empty > maxEmptyReads {
			return fmt.Errorf("read: the driver sends nothing, again and again: %w", io.ErrNoProgress)
		}
		s.Idle(began)
		return nil
	}
	c.empty = 0
	c.decoder.Feed(c.buf[:n])
	defer c.verdicts.finish(s)
	for {
		ok, err := c.decoder.Next(&c.info)
		switch {
		case err != nil:
			s.Bad(err)
		case !ok:
			return nil
		default:
			c.dispatch(s)
		}
	}
}

// dispatch passes on the info that was decoded.
func (c *conversation) dispatch(s *kextcore.Session) {
	switch c.info.Kind {
	case stream.KindLog:
		s.Log(level(c.info.Log.Severity), string(c.info.Log.Text))
	case stream.KindConnection4, stream.KindConnection6:
		c.deliver(s, &c.info.Connection)
	case stream.KindEnd4, stream.KindEnd6:
		s.ReportEnd(c.info.End.Tuple)
	case stream.KindBandwidth4, stream.KindBandwidth6:
		c.report(s, &c.info.Bandwidth)
	}
}

// level is Info for a severity that does not exist.
func level(s stream.Severity) slog.Level {
	if int(s) < len(levels) {
		return levels[s]
	}
	return slog.LevelInfo
}

func (c *conversation) deliver(s *kextcore.Session, conn *stream.Connection) {
	d := &c.delivery
	*d = kextcore.Delivery{ID: conn.ID, Layer: conn.Layer, Payload: conn.Payload}
	d.Info.Tuple, d.Info.Direction = conn.Tuple, conn.Direction
	d.Info.Version = 6
	if conn.Tuple.Is4() {
		d.Info.Version = 4
	}
	if conn.PID <= math.MaxInt32 {
		d.Info.PID = int(conn.PID)
	}
	s.Deliver(d)
}

func (c *conversation) report(s *kextcore.Session, w *stream.Bandwidth) {
	if !s.WantsReports() {
		return
	}
	for n := range w.Len() {
		u := w.At(n)
		c.usage = append(c.usage, intercept.Usage{Tuple: u.Tuple, ReceivedBytes: u.Received, SentBytes: u.Transmitted})
		if len(c.usage) == maxReport || n == w.Len()-1 {
			s.ReportUsage(c.usage)
			c.usage = c.usage[:0]
		}
	}
}

// number returns the driver's verdict. A driver that does not know the split tunnel must not be asked for what it may take
// for anything: the connection is dropped.
func (c *conversation) number(action verdict.Action) (stream.Verdict, error) {
	if action == verdict.ActionRerouteToSplitTun && !c.split {
		return stream.VerdictDrop, ErrNoSplitTunnel
	}
	return numbers[action], nil
}

// Verdict implements kextcore.Protocol.
func (c *conversation) Verdict(id uint64, action verdict.Action, scratch *kextcore.Scratch) error {
	number, err := c.number(action)
	if _, werr := c.dev.Write(stream.AppendVerdict(scratch[:0], id, number)); werr != nil {
		return fmt.Errorf("write: %w", werr)
	}
	return err
}

// BeginVerdict implements kextcore.Overlapper.
func (c *conversation) BeginVerdict(s *kextcore.Session, id uint64, action verdict.Action) bool {
	number, err := c.number(action)
	return err == nil && c.verdicts.begin(s, id, number)
}

// Update implements kextcore.Protocol.
func (c *conversation) Update(t *packet.Tuple, action verdict.Action) error {
	number, err := c.number(action)
	if err != nil {
		number = stream.VerdictPermanentDrop
	}
	b, aerr := stream.AppendUpdate(nil, t, number)
	if aerr != nil {
		return aerr
	}
	if _, werr := c.dev.Write(b); werr != nil {
		return fmt.Errorf("write: %w", werr)
	}
	return err
}

// command writes a command without a body.
func (c *conversation) command(id stream.CommandID) error {
	if _, err := c.dev.Write([]byte{byte(id)}); err != nil {
		return fmt.Errorf("write command %d: %w", id, err)
	}
	return nil
}

// ClearCache implements kextcore.Protocol.
func (c *conversation) ClearCache() error { return c.command(stream.CommandClearCache) }

// Shutdown implements kextcore.Protocol.
func (c *conversation) Shutdown() error { return c.command(stream.CommandShutdown) }

func (c *conversation) printMemoryStats() error { return c.command(stream.CommandMemoryStats) }

// Housekeep implements kextcore.Protocol. The answers are read like everything else.
func (c *conversation) Housekeep(n int, _ *kextcore.Session) error {
	errs := []error{c.command(stream.CommandGetLogs), c.command(stream.CommandBandwidth)}
	if n%cleanEvery == 0 {
		errs = append(errs, c.command(stream.CommandCleanEnded))
	}
	return errors.Join(errs...)
}

// Close implements kextcore.Protocol.
func (c *conversation) Close() error {
	if err := c.dev.Close(); err != nil {
		return fmt.Errorf("close the device: %w", err)
	}
	return nil
}
