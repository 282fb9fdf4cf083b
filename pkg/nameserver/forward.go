package nameserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// ErrNoAnswer is wrapped by what Lookup and records say when no server has a useful answer.
var ErrNoAnswer = errors.New("nameserver: no server has an answer")

// rounds is how often each server is asked for one query: packets get lost.
const rounds = 2

// pool are servers that stand in for each other.
type pool struct {
	servers []*server
	spawn   func(func())
	global  bool // none of a route
}

// attempt is one question to one server.
type attempt struct {
	server *server
	began  time.Time
	took   time.Duration
	msg    *dns.Msg
	err    error
}

// order returns the servers to ask in turn, and those that failed and are worth another try beside them.
func (p *pool) order(now time.Time) (inTurn, probes []*server) {
	var failing []*server
	for _, s := range p.servers {
		switch bad, due := s.failing(now); {
		case due:
			probes = append(probes, s)
			failing = append(failing, s)
		case bad:
			failing = append(failing, s)
		default:
			inTurn = append(inTurn, s)
		}
	}
	if len(inTurn) == 0 {
		return p.servers, nil
	}
	return append(inTurn, failing...), probes
}

// ask asks the servers, one more whenever the last one has failed or takes longer than patience, and returns the first useful answer.
func (p *pool) ask(ctx context.Context, o *outgoing, patience time.Duration) (*dns.Msg, *server, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inTurn, probes := p.order(time.Now())
	r := &race{pool: p, o: o, results: make(chan *attempt, rounds*len(inTurn)+len(probes))}
	for _, s := range probes {
		r.start(ctx, s)
	}
	for range rounds {
		r.queue = append(r.queue, inTurn...)
	}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			if r.startNext(ctx) {
				next.Reset(patience)
			}
		case a := <-r.results:
			if a.err == nil {
				r.won(a)
				return a.msg, a.server, nil
			}
			if ctx.Err() != nil {
				return nil, nil, r.lost(ctx)
			}
			r.failed(a)
			if r.startNext(ctx) {
				next.Reset(patience)
			} else if len(r.running) == 0 {
				return nil, nil, errors.Join(r.errs...)
			}
		case <-ctx.Done():
			return nil, nil, r.lost(ctx)
		}
	}
}

// race is one query under way to several servers.
type race struct {
	pool    *pool
	o       *outgoing
	queue   []*server
	running []*attempt
	results chan *attempt // has room for all
	errs    []error
}

func (r *race) start(ctx context.Context, s *server) {
	a := &attempt{server: s, began: time.Now()}
	r.running = append(r.running, a)
	r.pool.spawn(func() {
		msg, err := s.try(ctx, r.o)
		r.results <- &attempt{server: s, began: a.began, took: time.Since(a.began), msg: msg, err: err}
	})
}

// startNext asks the next server; false if there is none.
func (r *race) startNext(ctx context.Context) bool {
	if len(r.queue) == 0 {
		return false
	}
	s := r.queue[0]
	r.queue = r.queue[1:]
	r.start(ctx, s)
	return true
}

func (r *race) end(a *attempt) {
	r.running = slices.DeleteFunc(r.running, func(o *attempt) bool { return o.server == a.server && o.began.Equal(a.began) })
}

// failed notes a server's failure. What it said at once it would say again.
func (r *race) failed(a *attempt) {
	r.end(a)
	a.server.fail(r.o, a.err)
	r.errs = append(r.errs, fmt.Errorf("%v: %w", a.server.Upstream, a.err))
	if !isTimeout(a.err) {
		r.queue = slices.DeleteFunc(r.queue, func(s *server) bool { return s == a.server })
	}
}

// won notes the winner's success, and a failure of those that had at least twice as long and the time after which the next one is asked:
// what takes longer may still be a long way, but others are better.
func (r *race) won(a *attempt) {
	r.end(a)
	now := time.Now()
	for _, o := range r.running {
		if d := now.Sub(o.began); o.server != a.server && d >= 2*a.took && d >= slowest {
			o.server.fail(r.o, errSilent)
		}
	}
	a.server.ok(a.took)
}

// slowest is the least time that a server may take without being called silent.
const slowest = 200 * time.Millisecond

// lost notes the failure of all that have not answered when the query's time is up.
func (r *race) lost(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		seen := map[*server]bool{}
		for _, o := range r.running {
			if !seen[o.server] {
				seen[o.server] = true
				o.server.fail(r.o, errSilent)
				r.errs = append(r.errs, fmt.Errorf("%v: %w", o.server.Upstream, errSilent))
			}
		}
	}
	return errors.Join(append(r.errs, ctx.Err())...)
}
