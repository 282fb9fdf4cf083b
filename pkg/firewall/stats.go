package firewall

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/verdict"
)

type counters struct {
	verdicts       [verdict.NumVerdicts]atomic.Uint64
	queueFull      atomic.Uint64
	overload       atomic.Uint64
	handlerLate    atomic.Uint64
	unknownProcess atomic.Uint64
	applyErrors    atomic.Uint64
	onTheSpot      atomic.Uint64
	reassigned     atomic.Uint64
	received       atomic.Uint64
	sent           atomic.Uint64
	infoMissed     atomic.Uint64
}

// Stats are counts since New.
type Stats struct {
	// Verdicts counts decisions, re-evaluations included, by verdict number.
	Verdicts [verdict.NumVerdicts]uint64 `json:"verdicts"`
	// QueueFull counts packets dropped because too many of one undecided
	// connection waited.
	QueueFull uint64 `json:"queueFull"`
	// Overload counts connections that were given up because too many were
	// undecided at once.
	Overload uint64 `json:"overload"`
	// HandlerLate counts connections that were decided without the external
	// handler because it was too slow.
	HandlerLate uint64 `json:"handlerLate"`
	// UnknownProcess counts connections without a known process.
	UnknownProcess uint64 `json:"unknownProcess"`
	// ApplyErrors counts packets whose verdict could not be issued any more.
	ApplyErrors uint64 `json:"applyErrors"`
	// OnTheSpot counts connections that were judged on the packet backend's
	// thread.
	OnTheSpot uint64 `json:"onTheSpot"`
	// Reassigned counts connections that turned out to belong to another process.
	Reassigned uint64 `json:"reassigned"`
	// ReceivedBytes and SentBytes are those of connections, as far as the packet backend has told of them.
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
	// InfoMissed counts connections whose process the backend was to tell, and
	// did not in time.
	InfoMissed uint64 `json:"infoMissed"`
	// Waiting is how many connections wait for a handler, name or person now.
	Waiting int `json:"waiting"`
}

// Stats returns the counts.
func (f *Firewall) Stats() Stats {
	s := Stats{
		QueueFull:      f.stats.queueFull.Load(),
		Overload:       f.stats.overload.Load(),
		HandlerLate:    f.stats.handlerLate.Load(),
		UnknownProcess: f.stats.unknownProcess.Load(),
		ApplyErrors:    f.stats.applyErrors.Load(),
		OnTheSpot:      f.stats.onTheSpot.Load(),
		Reassigned:     f.stats.reassigned.Load(),
		ReceivedBytes:  f.stats.received.Load(),
		SentBytes:      f.stats.sent.Load(),
		InfoMissed:     f.stats.infoMissed.Load(),
		Waiting:        int(f.waiting.n.Load() + f.asking[0].n.Load() + f.asking[1].n.Load()),
	}
	for i := range s.Verdicts {
		s.Verdicts[i] = f.stats.verdicts[i].Load()
	}
	return s
}

// alarmTime is how long a condition lasts after its last occurrence.
const alarmTime = 30 * time.Second

// alarms reports conditions once, and their end when they did not occur for
// some time.
type alarms struct {
	report func(Condition)
	mu     sync.Mutex // guards raised
	raised map[string]alarm
}

type alarm struct {
	text string
	last time.Time
}

func (a *alarms) raise(id, text string) {
	a.mu.Lock()
	if a.raised == nil {
		a.raised = make(map[string]alarm)
	}
	_, known := a.raised[id]
	a.raised[id] = alarm{text, time.Now()}
	a.mu.Unlock()
	if !known {
		a.report(Condition{ID: id, Text: text})
	}
}

func (a *alarms) expire(now time.Time) {
	var over []string
	a.mu.Lock()
	for id, r := range a.raised {
		if now.Sub(r.last) > alarmTime {
			delete(a.raised, id)
			over = append(over, id)
		}
	}
	a.mu.Unlock()
	for _, id := range over {
		a.report(Condition{ID: id, Over: true})
		a.mu.Lock()
		r, again := a.raised[id]
		a.mu.Unlock()
		if again {
			// it may have been reported before its end was
			a.report(Condition{ID: id, Text: r.text})
		}
	}
}
