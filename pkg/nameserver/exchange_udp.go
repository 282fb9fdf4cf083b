package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

const (
	// caseGrace is how long the right answer is waited for after one came that is right but for the case of the name, or has no
	// name at all.
	caseGrace = 100 * time.Millisecond
	// maxWrong is how many wrong answers make a forger, before whom TCP is safe.
	maxWrong = 64
	// quirkTime is how long a server is remembered to have to be asked in another way.
	quirkTime = 10 * time.Minute
)

var (
	errForger = errors.New("too many answers to something else")
	errCase   = errors.New("answers come with the name in another case")
)

// quirk remembers for a while that a server needs to be asked in another way.
type quirk struct{ until atomic.Int64 }

func (q *quirk) set()      { q.until.Store(time.Now().Add(quirkTime).UnixNano()) }
func (q *quirk) has() bool { return time.Now().UnixNano() < q.until.Load() }

// udpExchanger asks by UDP, each question from a socket of its own, and by TCP what does not fit or is not safe.
type udpExchanger struct {
	upstream Upstream
	dialer   *dialer
	own      *ownQueries
	stats    *counters
	tcp      *streamExchanger
	onlyTCP  quirk
	noEDNS   quirk
}

func (x *udpExchanger) close() { x.tcp.close() }

func (x *udpExchanger) exchange(ctx context.Context, o *outgoing) (*dns.Msg, error) {
	if x.onlyTCP.has() {
		return x.tcp.exchange(ctx, o)
	}
	m, err := x.try(ctx, o, form{mixed: true, edns: !x.noEDNS.has()})
	if errors.Is(err, errNoEDNS) {
		x.noEDNS.set()
		m, err = x.try(ctx, o, form{mixed: true})
	}
	switch {
	case errors.Is(err, errCase):
		x.onlyTCP.set()
		return x.tcp.exchange(ctx, o)
	case errors.Is(err, errForger) || err == nil && m.Truncated:
		return x.tcp.exchange(ctx, o)
	}
	return m, err
}

// try asks once and waits for the right answer.
func (x *udpExchanger) try(ctx context.Context, o *outgoing, f form) (*dns.Msg, error) {
	q, err := o.pack(f)
	if err != nil {
		return nil, err
	}
	c, err := x.dialer.dial(ctx, packet.UDP, x.upstream.Addr)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // nothing is lost with it
	defer x.own.note(packet.UDP, portOf(c), q)()
	// An end of ctx interrupts reading.
	defer context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // it is closed then, which serves as well
	})()
	if _, err := c.Write(q.wire); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	return x.receive(ctx, c, q, f)
}

func (x *udpExchanger) receive(ctx context.Context, c net.Conn, q *packed, f form) (*dns.Msg, error) {
	var doubt error // what to say if nothing better comes within caseGrace
	looked := false // once more, after that
	buf := make([]byte, 4096)
	for range maxWrong {
		n, err := c.Read(buf)
		if err != nil {
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case doubt == nil:
				return nil, fmt.Errorf("receive: %w", err)
			case looked:
				return nil, doubt
			}
			// What came while this program had no processor is there, and is not read after a deadline.
			looked = true
			if err := c.SetReadDeadline(time.Now().Add(caseGrace / 4)); err != nil {
				return nil, fmt.Errorf("receive: %w", err)
			}
			continue
		}
		kind := q.match(buf[:n])
		if kind == matchExact {
			m, err := decode(buf[:n])
			if err == nil && f.edns && withoutEDNS(m) {
				return nil, errNoEDNS
			}
			if err == nil {
				return m, nil
			}
			kind = matchNone // the right one can still come
		}
		x.stats.wrong.Add(1)
		if doubt != nil || kind == matchNone {
			continue
		}
		doubt = errCase
		if kind == matchBare {
			if doubt = errForger; f.edns {
				doubt = errNoEDNS
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(caseGrace)); err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err() // it may have ended just before the new deadline
		}
	}
	return nil, errForger
}
