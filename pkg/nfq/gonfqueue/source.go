package gonfqueue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/verdict"
)

// Defaults of Config.
const (
	DefaultReceiveBuffer = 8 << 20
	DefaultTimeout       = 30 * time.Second
	DefaultMaxPending    = 4096
	// DefaultMaxQueueLen of the library is 1024, which a burst overflows.
	DefaultMaxQueueLen = 8192
)

// Config of a Source. The zero value reads queue 0 and drops what nobody decides
// about.
type Config struct {
	// Queue is the library's own configuration. Of its zero fields, Copymode
	// means packets, MaxPacketLen nfq.DefaultCopyRange, MaxQueueLen
	// DefaultMaxQueueLen, and Flags big segments and user ids. The fields AfFamily
	// and NetNS are passed on as they are.
	Queue nfqueue.Config
	// Marks tell verdicts to the caller's rules. Default nfq.DefaultMarks.
	Marks nfq.Marks
	// Default is the action for packets that nobody decides about: those that
	// make no sense, whose handler is too slow, that come when too many wait, and
	// that wait when Run ends. Default to drop.
	Default verdict.Action
	// Timeout is how long a packet waits for the handler's verdict. It may be up
	// to an eighth late. Default 30 s.
	Timeout time.Duration
	// MaxPending is how many packets may wait for the handler's verdict. Default
	// 4096.
	MaxPending int
	// ReceiveBuffer is the size of the socket's buffer in bytes. Default 8 MiB.
	ReceiveBuffer int
}

// withDefaults returns c with its defaults filled in.
func (c Config) withDefaults() Config {
	if c.Queue.Copymode == nfqueue.NfQnlCopyNone {
		c.Queue.Copymode = nfqueue.NfQnlCopyPacket
	}
	if c.Queue.MaxPacketLen == 0 {
		c.Queue.MaxPacketLen = nfq.DefaultCopyRange
	}
	if c.Queue.MaxQueueLen == 0 {
		c.Queue.MaxQueueLen = DefaultMaxQueueLen
	}
	if c.Queue.Flags == 0 {
		c.Queue.Flags = nfqueue.NfQaCfgFlagGSO | nfqueue.NfQaCfgFlagUIDGid
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
	}
	if c.ReceiveBuffer == 0 {
		c.ReceiveBuffer = DefaultReceiveBuffer
	}
	return c
}

// Source reads one queue. It implements intercept.Source.
type Source struct {
	cfg   Config
	plain *nfq.Plain
	// running is true while Run runs.
	running atomic.Bool
}

var _ intercept.Source = (*Source)(nil)

// New returns a Source that does nothing yet. The error wraps
// errors.ErrUnsupported on systems other than Linux, nfq.ErrBadConfig or
// nfq.ErrBadMarks.
func New(cfg Config) (*Source, error) {
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("gonfqueue: read an NFQUEUE on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
	}
	if cfg.Timeout < 0 || cfg.MaxPending < 0 || cfg.ReceiveBuffer < 0 {
		return nil, fmt.Errorf("gonfqueue: %w: a size or time is negative", nfq.ErrBadConfig)
	}
	plain, err := nfq.NewPlain(cfg.Marks)
	if err != nil {
		return nil, fmt.Errorf("gonfqueue: %w", err)
	}
	return &Source{cfg: cfg.withDefaults(), plain: plain}, nil
}

// Run implements intercept.Source. It opens its socket in the network namespace
// of the calling thread, unless Config.Queue.NetNS says another. The error wraps
// intercept.ErrNotInterceptable if the queue cannot be read.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("gonfqueue: source runs already")
	}
	defer s.running.Store(false)
	q := newQueue(s, h)
	if err := q.open(ctx); err != nil {
		return err
	}
	if q.nf == nil {
		return nil // ctx is done
	}
	if ready != nil {
		ready()
	}
	sweep := time.NewTicker(max(s.cfg.Timeout/8, time.Millisecond))
	defer sweep.Stop()
	for {
		select {
		case now := <-sweep.C:
			q.expire(now.Add(-s.cfg.Timeout))
		case <-ctx.Done():
			return q.stop()
		case <-q.ended:
			return errors.Join(q.broken, q.stop())
		}
	}
}

// openTime is how long binding a busy queue is tried. The library binds in
// several requests and takes a packet that comes between them for a wrong answer.
const openTime = 10 * time.Second

// open binds the queue. Without an error q.nf is nil if ctx is done.
func (q *queue) open(ctx context.Context) error {
	var err error
	for end := time.Now().Add(openTime); time.Now().Before(end); {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Run returns nil when ctx is done
		}
		if err = q.tryOpen(ctx); err == nil {
			return nil
		}
		var refused *netlink.OpError
		if errors.As(err, &refused) && refused.Op != "validate" {
			break // the kernel said no
		}
	}
	return fmt.Errorf("%w: queue %d: %w", intercept.ErrNotInterceptable, q.cfg.Queue.NfQueue, err)
}

func (q *queue) tryOpen(ctx context.Context) error {
	cfg := q.cfg.Queue // the library writes into it
	nf, err := nfqueue.Open(&cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := errors.Join(
		nf.SetOption(netlink.NoENOBUFS, true), // lost packets are lost, the queue is as good as before
		nf.Con.SetReadBuffer(q.cfg.ReceiveBuffer),
	); err != nil {
		return errors.Join(fmt.Errorf("set socket options: %w", err), nf.Close())
	}
	q.nf = nf
	// Not ctx: the queue stops itself, so that all packets have their verdicts
	// before the library lets go of it.
	if err := nf.RegisterWithErrorFunc(context.WithoutCancel(ctx), q.receive, q.receiveError); err != nil {
		q.nf = nil
		return errors.Join(fmt.Errorf("bind: %w (root or CAP_NET_ADMIN is needed, and nobody else may read the queue)", err), nf.Close())
	}
	return nil
}
