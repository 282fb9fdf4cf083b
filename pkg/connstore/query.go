package connstore

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Query asks a store for records, which are connections and DNS queries: which ones, in which order, one by one or in groups, and how they spread over time. Every
// store of this module answers it in the same way. A zero field does not restrict; the zero Query selects all, newest first. As JSON,
// the names of choices and of fields are those that their String methods return.
type Query struct {
	// Kind selects connections or DNS queries.
	Kind Kind `json:"kind,omitzero"`
	// IDs selects connections by their numbers.
	IDs []conn.ID `json:"ids,omitempty"`
	// Text is a part of the app, the domain or one of its CNAMEs, the rule, or the remote address, in any case.
	Text string `json:"text,omitempty"`
	// Verdicts selects connections with one of them.
	Verdicts []verdict.Verdict `json:"verdicts,omitempty"`
	// App is a part of the process's path or script, in any case.
	App string `json:"app,omitempty"`
	// PID selects one process.
	PID int `json:"pid,omitempty"`
	// Domain is a part of the domain, in any case.
	Domain string `json:"domain,omitempty"`
	// Remote selects remote addresses.
	Remote netip.Prefix `json:"remote,omitzero"`
	// Port selects connections with this local or remote port.
	Port uint16 `json:"port,omitempty"`
	// Protocols selects connections with one of them.
	Protocols []packet.Protocol `json:"protocols,omitempty"`
	// Direction selects one direction.
	Direction Direction `json:"direction,omitzero"`
	// Life selects live or ended connections.
	Life Life `json:"life,omitzero"`
	// Rule selects connections that this rule decided.
	Rule string `json:"rule,omitempty"`
	// Without leaves out connections that were decided for one of these reasons.
	Without []verdict.Code `json:"without,omitempty"`
	// Since and Until restrict the start: not before Since, and before Until.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Exactly selects connections whose fields have these values, written as in Group.Key. An empty value is one that is not known.
	Exactly map[Field]string `json:"exactly,omitempty"`

	// GroupBy puts connections together that have the same value there: the answer has groups, and no connections.
	GroupBy Field `json:"groupBy,omitzero"`
	// Every is the length of the steps of a time series; 0 is not to make one. A second at least.
	Every time.Duration `json:"every,omitempty"`
	// Order of the connections, or of the groups; newest first by default.
	Order Order `json:"order,omitzero"`
	// Offset and Limit take a page of connections, or of groups; Limit 0 is no limit.
	Offset int `json:"offset,omitempty"`
	Limit  int `json:"limit,omitempty"`
}

// MaxPoints is the greatest length of a time series. Of a longer one there are the latest points.
const MaxPoints = 2000

// ErrQuery is wrapped by errors about a query that asks for what does not exist.
var ErrQuery = errors.New("connstore: bad query")

// MaxValues is how many values a list of a Query may have.
const MaxValues = 1000

// Validate says what a store could not answer, or not in a reasonable time. The error wraps ErrQuery.
func (q *Query) Validate() error {
	switch {
	case q.Order >= Order(len(orderNames)):
		return fmt.Errorf("%w: no order %d", ErrQuery, q.Order)
	case q.Order == MostConnectionsFirst && q.GroupBy == NoField:
		return fmt.Errorf("%w: %v needs groups", ErrQuery, q.Order)
	case q.Direction >= Direction(len(directionNames)):
		return fmt.Errorf("%w: no direction %d", ErrQuery, q.Direction)
	case q.Kind >= Kind(len(kindNames)):
		return fmt.Errorf("%w: no kind %d", ErrQuery, q.Kind)
	case q.Life >= Life(len(lifeNames)):
		return fmt.Errorf("%w: no life %d", ErrQuery, q.Life)
	case q.GroupBy >= Field(len(fieldNames)):
		return fmt.Errorf("%w: no field %d to group by", ErrQuery, q.GroupBy)
	case q.Every != 0 && q.Every < time.Second:
		return fmt.Errorf("%w: steps of %v: a second at least", ErrQuery, q.Every)
	case q.Offset < 0 || q.Limit < 0:
		return fmt.Errorf("%w: offset %d, limit %d: not below 0", ErrQuery, q.Offset, q.Limit)
	case len(q.IDs) > MaxValues || len(q.Verdicts) > MaxValues || len(q.Protocols) > MaxValues || len(q.Without) > MaxValues:
		return fmt.Errorf("%w: %d at most of each of ids, verdicts, protocols and codes", ErrQuery, MaxValues)
	}
	for f := range q.Exactly {
		if f == NoField || f >= Field(len(fieldNames)) {
			return fmt.Errorf("%w: no field %d to compare", ErrQuery, f)
		}
	}
	return nil
}

// Direction selects connections by direction.
type Direction uint8

// The choices of Query.Direction.
const (
	AnyDirection Direction = iota
	OnlyOutbound
	OnlyInbound
)

// Kind selects records by what they are about.
type Kind uint8

// The choices of Query.Kind.
const (
	ConnectionsAndQueries Kind = iota
	OnlyConnections
	OnlyQueries
)

// Life selects connections by whether they ended.
type Life uint8

// The choices of Query.Life.
const (
	LiveAndEnded Life = iota
	OnlyLive
	OnlyEnded
)

// Order sorts an answer.
type Order uint8

// The choices of Query.Order. Connections that are equal are newest first, groups by their key. A group is as new as its newest
// connection, and as old as its oldest.
const (
	NewestFirst Order = iota
	OldestFirst
	MostBytesFirst
	LastSeenFirst
	// MostConnectionsFirst is for groups.
	MostConnectionsFirst
)

// Field is something that connections can have in common.
type Field uint8

// The fields.
const (
	NoField Field = iota
	// ByApp is the script that an interpreter runs, or else the executable.
	ByApp
	ByDomain
	// ByAddress and ByPort are the remote ones. Without ports, as in ICMP, the port is unknown.
	ByAddress
	ByPort
	ByVerdict
	ByProtocol
	ByDirection
	// ByRule is the id of the rule that decided.
	ByRule
	// ByInterface is the name of the interface that a split connection leaves by.
	ByInterface
)
