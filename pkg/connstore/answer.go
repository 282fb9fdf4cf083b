package connstore

import (
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// Sums add up connections.
type Sums struct {
	// Total is how many they are.
	Total int `json:"total"`
	// ByVerdict counts them; a verdict that none has is not in it.
	ByVerdict map[verdict.Verdict]int `json:"byVerdict"`
	// ReceivedBytes and SentBytes is what they transferred so far.
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
	// ReceivedRate and SentRate are what those that live transfer, in bytes a second; see conn.Snapshot.
	ReceivedRate uint64 `json:"receivedRate,omitempty"`
	SentRate     uint64 `json:"sentRate,omitempty"`
}

// Allowed counts those that get somewhere: they are accepted or rerouted.
func (s *Sums) Allowed() int { return s.count(verdict.Verdict.Allows) }

// Refused counts those that were blocked or dropped, or that failed.
func (s *Sums) Refused() int { return s.count(verdict.Verdict.Refuses) }

func (s *Sums) count(is func(verdict.Verdict) bool) (n int) {
	for v, k := range s.ByVerdict {
		if is(v) {
			n += k
		}
	}
	return n
}

// Page is the answer to a Query.
type Page struct {
	// Sums are of everything that the query selects, on all pages.
	Sums
	// Connections are those of the page. There are none in groups.
	Connections []conn.Snapshot `json:"connections"`
	// Groups are those of the page, if the query asks for groups; TotalGroups counts all.
	Groups      []Group `json:"groups,omitempty"`
	TotalGroups int     `json:"totalGroups,omitempty"`
	// Series is what the query selects, over time. It begins with the first start and ends with the last one, at most MaxPoints before.
	Series []Point `json:"series,omitempty"`
}

// Group is of connections that have a value in common.
type Group struct {
	// Key is that value; "" if it is not known.
	Key string `json:"key"`
	Sums
	// First and Last are when its first and its last connection started.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// LastSeen is when user space last saw a packet of any of them.
	LastSeen time.Time `json:"lastSeen,omitzero"`
}

// Point of a time series.
type Point struct {
	// Start of the step: a multiple of its length since 1970, in UTC.
	Start time.Time `json:"start"`
	// Sums are of connections that started within the step, with all that they transferred so far.
	Sums
}
