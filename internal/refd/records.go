package refd

import (
	"context"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/nameserver"
)

// queryRecords stores the queries of programs beside their connections. It is a nameserver.Recorder.
type queryRecords struct {
	store  *connstore.Live
	askers *askers
	ownPID int

	mu sync.Mutex // guards waiting
	// waiting are the records of queries that were stored before their answer, by Query.ID.
	waiting map[uint64]conn.ID
}

var _ nameserver.Recorder = (*queryRecords)(nil)

// Record implements nameserver.Recorder.
func (r *queryRecords) Record(rec nameserver.Record) {
	// the context ends searches; who asked was found when the query was decided
	who := r.askers.find(context.Background(), &rec.Query)
	s := snapshotOf(&rec.Query, who, rec.Reply.Answer)
	s.Decision, s.Enforced = rec.Decision, true
	s.Internal = who.process != nil && who.process.PID == r.ownPID
	s.Query = queryOf(&rec)
	s.LastSeen = rec.Query.Time
	if s.Ended = rec.Answered; !rec.Decision.Verdict.Allows() && s.Ended.IsZero() {
		s.Ended = time.Now() // it is never answered
	}
	s.ID = r.storedAs(rec.Query.ID)
	id := r.store.PutQuery(*s)
	if s.Live() {
		r.mu.Lock()
		r.waiting[rec.Query.ID] = id
		r.mu.Unlock()
	}
}

// storedAs returns the ID of a query that was stored before, and 0 for a new one.
func (r *queryRecords) storedAs(query uint64) conn.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.waiting[query]
	delete(r.waiting, query)
	return id
}

func queryOf(rec *nameserver.Record) *conn.Query {
	q := &conn.Query{Type: rec.Query.Type.String(), Answered: rec.Answered}
	if rec.Err != nil {
		q.Error = rec.Err.Error()
	}
	if a := rec.Reply.Answer; a != nil {
		q.RCode, q.Addresses, q.Source, q.Upstream = dnsmon.RCodeName(a.RCode), a.Addrs, rec.Reply.Source.String(), a.Upstream
	}
	return q
}
