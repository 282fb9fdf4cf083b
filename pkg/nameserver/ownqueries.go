package nameserver

import (
	"sync"

	"github.com/weirfw/weir/pkg/packet"
)

// ownQueries are the questions that our own sockets have asked and that are not answered. One that arrives here as a client's query was
// redirected to us, and would go round for ever.
type ownQueries struct {
	mu sync.Mutex // guards m
	m  map[ownKey]string
}

type ownKey struct {
	protocol packet.Protocol
	port, id uint16
}

// note remembers a question until the returned function is called.
func (o *ownQueries) note(p packet.Protocol, port uint16, q *packed) (forget func()) {
	k := ownKey{p, port, q.id()}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = map[ownKey]string{}
	}
	o.m[k] = string(q.question)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.m, k)
	}
}

// has reports whether a client's query is one of ours: the same socket, id and name, in its random case.
func (o *ownQueries) has(p packet.Protocol, port uint16, r *request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.m) == 0 {
		return false
	}
	question, ok := o.m[ownKey{p, port, r.id}]
	return ok && len(question) > 4 && question[:len(question)-4] == string(r.name)
}
