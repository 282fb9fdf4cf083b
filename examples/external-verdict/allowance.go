package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// allowance is a policy that rules cannot express, because it remembers: each program gets so many connections.
type allowance struct {
	most int

	mu   sync.Mutex                      // guards used
	used map[string]map[conn.ID]struct{} // by the path of the program
}

func newAllowance(most int) *allowance {
	return &allowance{most: most, used: map[string]map[conn.ID]struct{}{}}
}

// decide is an extverdict.Handler: many goroutines call it at once, and it answers within the deadline.
func (a *allowance) decide(_ context.Context, s *conn.Snapshot) extverdict.Result {
	if s.Direction == packet.Inbound || s.Process == nil {
		return extverdict.Result{} // no opinion: deciders and defaults hold
	}
	r := extverdict.Result{Verdict: verdict.Accept}
	n, ok := a.take(s.Process.Path, s.ID)
	r.Reason = fmt.Sprintf("%s: connection %d of %d", s.Process.Name(), n, a.most)
	if !ok {
		r = extverdict.Result{Verdict: verdict.Block, Reason: fmt.Sprintf("%s has used its %d connections", s.Process.Name(), a.most)}
	}
	fmt.Println(r.Verdict.Verb(), s.Tuple.Protocol, s.Tuple.Remote, "because", r.Reason)
	return r
}

// take counts a connection. One that is asked about again, because it is re-evaluated, was counted already.
func (a *allowance) take(program string, id conn.ID) (n int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := a.used[program]
	if ids == nil {
		ids = map[conn.ID]struct{}{}
		a.used[program] = ids
	}
	if _, known := ids[id]; !known {
		if len(ids) >= a.most {
			return len(ids), false
		}
		ids[id] = struct{}{}
	}
	return len(ids), true
}
