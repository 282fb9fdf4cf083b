package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Remote is an address or a network, as text.
type Remote struct{ netip.Prefix }

// UnmarshalText takes 192.0.2.1 and 192.0.2.0/24.
func (r *Remote) UnmarshalText(text []byte) error {
	if a, err := netip.ParseAddr(string(text)); err == nil {
		r.Prefix = netip.PrefixFrom(a.WithZone(""), a.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is neither an address nor a network", text)
	}
	r.Prefix = p.Masked()
	return nil
}

// Filter selects connections by the parameters of a URL: a connstore.Query in those words. The zero value selects all.
type Filter struct {
	// Queries is for DNS queries in place of connections.
	Queries   bool                `query:"queries"`
	Text      string              `query:"text"`
	Verdicts  []verdict.Verdict   `query:"verdict"`
	App       string              `query:"app"`
	PID       int                 `query:"pid"`
	Domain    string              `query:"domain"`
	Remote    Remote              `query:"remote"`
	Port      uint16              `query:"port"`
	Protocols []packet.Protocol   `query:"protocol"`
	Direction connstore.Direction `query:"direction"`
	Rule      string              `query:"rule"`
	Since     time.Time           `query:"since"`
	Until     time.Time           `query:"until"`
	Life      connstore.Life      `query:"life"`
	// Without leaves out what was decided for such a reason: own-service is what the page itself, say, has with refd.
	Without []verdict.Code `query:"without"`
}

// Query returns the query of a filter.
func (f *Filter) Query() connstore.Query {
	kind := connstore.OnlyConnections
	if f.Queries {
		kind = connstore.OnlyQueries
	}
	return connstore.Query{
		Kind: kind, Text: f.Text, Verdicts: f.Verdicts, App: f.App, PID: f.PID, Domain: f.Domain, Remote: f.Remote.Prefix, Port: f.Port,
		Protocols: f.Protocols, Rule: f.Rule, Direction: f.Direction, Life: f.Life, Without: f.Without, Since: f.Since, Until: f.Until,
	}
}

// ListRequest asks for a page of connections.
type ListRequest struct {
	Filter
	Order  connstore.Order `query:"order"`
	Offset int             `query:"offset"`
	// Limit is 1 to 1000; 100 by default.
	Limit int `query:"limit"`
}

func (r *ListRequest) query() (connstore.Query, error) {
	q := r.Query()
	const most, usual = 1000, 100
	if r.Limit < 0 || r.Limit > most || r.Offset < 0 {
		return q, fmt.Errorf("%w: use a limit of 1 to %d, and an offset from 0", ErrRefused, most)
	}
	q.Order, q.Offset, q.Limit = r.Order, r.Offset, cmp.Or(r.Limit, usual)
	if err := q.Validate(); err != nil {
		return q, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return q, nil
}

// Row is a connection, or a DNS query, as lists show it.
type Row struct {
	ID        conn.ID          `json:"id"`
	Started   time.Time        `json:"started"`
	Ended     time.Time        `json:"ended,omitzero"`
	Verdict   verdict.Verdict  `json:"verdict"`
	Enforced  bool             `json:"enforced"`
	Direction packet.Direction `json:"direction"`
	Protocol  packet.Protocol  `json:"protocol"`
	Local     netip.AddrPort   `json:"local"`
	Remote    netip.AddrPort   `json:"remote"`
	Domain    string           `json:"domain,omitempty"`
	// App is a short name, and Path the program; empty if it is not known.
	App  string `json:"app,omitempty"`
	Path string `json:"path,omitempty"`
	PID  int    `json:"pid,omitempty"`
	// Reason is for people, and Rule is what made the decision, if a rule did.
	Reason string `json:"reason,omitempty"`
	Rule   string `json:"rule,omitempty"`
	// Interface is what a split connection leaves by.
	Interface string `json:"interface,omitempty"`
	// Query is set for a DNS query.
	Query         *conn.Query `json:"query,omitempty"`
	ReceivedBytes uint64      `json:"receivedBytes"`
	SentBytes     uint64      `json:"sentBytes"`
}

// RowOf returns a connection as lists show it.
func RowOf(s *conn.Snapshot) Row {
	r := Row{
		ID: s.ID, Started: s.Started, Ended: s.Ended, Verdict: s.Decision.Verdict, Enforced: s.Enforced, Direction: s.Direction,
		Protocol: s.Tuple.Protocol, Local: s.Tuple.Local, Remote: s.Tuple.Remote, Domain: s.Domain, App: s.Process.Name(),
		Reason: s.Decision.Reason.Text, Rule: s.Decision.Reason.Rule, ReceivedBytes: s.ReceivedBytes, SentBytes: s.SentBytes, Query: s.Query,
	}
	if s.Process != nil {
		r.Path, r.PID = s.Process.Path, s.Process.PID
	}
	if s.SplitTun != nil {
		r.Interface = s.SplitTun.Interface
	}
	return r
}

// Rows is a page of connections, with the sums of all pages.
type Rows struct {
	connstore.Sums
	Rows []Row `json:"rows"`
}

// OneRequest names a connection.
type OneRequest struct {
	ID uint64 `path:"id"`
}

// LookUpRequest names connections whose rows are wanted as they are now.
type LookUpRequest struct {
	IDs []conn.ID `json:"ids"`
}

// TrafficPoint is what went on in some seconds.
type TrafficPoint struct {
	// Time is when they ended.
	Time time.Time `json:"time"`
	// Seconds is how many they were.
	Seconds float64 `json:"seconds"`
	// Bytes of connections, as far as the kernel has told of them.
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
	// Decisions by verdict.
	Decisions map[verdict.Verdict]uint64 `json:"decisions"`
}

// Batch is what happened to connections since the last one.
type Batch struct {
	// Rows are new or changed connections, the oldest first.
	Rows []Row `json:"rows"`
	// Skipped is how many more there were: too many to tell.
	Skipped int `json:"skipped"`
}
