package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Query answers q as connstore.Live does, about what was written. A query that is not valid is an error that wraps
// connstore.ErrQuery. Any goroutine may call it; writing goes on meanwhile.
func (s *Store) Query(ctx context.Context, q connstore.Query) (connstore.Page, error) {
	if err := q.Validate(); err != nil {
		return connstore.Page{}, err //nolint:wrapcheck // documented as it is
	}
	rows, p := s.tally(&q)
	for i := range rows {
		c, err := s.read(ctx, &rows[i])
		if errors.Is(err, sql.ErrNoRows) {
			continue // it was old, and went meanwhile
		}
		if err != nil {
			return connstore.Page{}, fmt.Errorf("read connection %d: %w", rows[i].id, err)
		}
		p.Connections = append(p.Connections, c)
	}
	return p, nil
}

// tally finds the rows of the page, and what the answer has besides.
func (s *Store) tally(q *connstore.Query) ([]row, connstore.Page) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, f, g := connstore.NewTally(q), newFilter(q, s.dims), grouper{by: q.GroupBy, dims: s.dims}
	t.GroupKeys(func(id conn.ID) string { return s.index.get(id).addr().String() })
	scan := s.index.backwards
	if q.Order == connstore.OldestFirst {
		scan = s.index.forwards // those of the page first: none of them takes another's place
	}
	scan(func(r *row) bool {
		if f.matches(r) {
			t.Add(&connstore.Row{
				ID: r.id, Verdict: r.verdict, Started: r.started, LastSeen: r.seen, ReceivedBytes: r.received, SentBytes: r.sent,
			}, g.group(t, r))
		}
		return true
	})
	found, p := t.Page()
	rows := make([]row, len(found))
	for i := range found {
		rows[i] = *s.index.get(found[i].ID)
	}
	return rows, p
}

// grouper finds the groups of rows without making a text of each.
type grouper struct {
	by   connstore.Field
	dims *dims
	byID map[uint32]int
	// byAddr has the number of the group, plus 1, by the number of the address
	byAddr []int32
}

func (g *grouper) group(t *connstore.Tally, r *row) int {
	switch g.by {
	case connstore.NoField:
		return 0
	case connstore.ByApp:
		return g.ofID(t, r.app, func() string { a := g.dims.apps.all[r.app]; return connstore.App(a.path, a.script) })
	case connstore.ByDomain:
		return g.ofID(t, r.name, func() string { return g.dims.names.all[r.name].domain })
	case connstore.ByRule:
		return g.ofID(t, r.reason, func() string { return g.dims.reasons.all[r.reason].Rule })
	case connstore.ByInterface:
		return g.ofID(t, r.way, func() string { return g.dims.ways.all[r.way].iface })
	case connstore.ByAddress:
		if int(r.address) >= len(g.byAddr) {
			g.byAddr = append(g.byAddr, make([]int32, max(len(g.byAddr), int(r.address)+1))...)
		}
		n := &g.byAddr[r.address]
		if *n == 0 {
			*n = int32(t.NewGroup(r.id)) + 1
		}
		return int(*n) - 1
	case connstore.ByPort:
		return g.ofID(t, uint32(r.remotePort), func() string { return connstore.PortText(r.remotePort) })
	case connstore.ByVerdict, connstore.ByProtocol, connstore.ByDirection:
	}
	return t.Group(r.value(g.by))
}

func (g *grouper) ofID(t *connstore.Tally, id uint32, key func() string) int {
	n, ok := g.byID[id]
	if !ok {
		if g.byID == nil {
			g.byID = map[uint32]int{}
		}
		n = t.Group(key())
		g.byID[id] = n
	}
	return n
}

const selectOne = `SELECT started, ended, seen, verdict, verdict_scope, flags, net_scope, protocol, local, local_port, remote, remote_port,
	icmp, interface, packets, received, sent, query FROM connections WHERE id = ?`

// read reads a connection. The figures may be newer than those that it was found by.
func (s *Store) read(ctx context.Context, r *row) (conn.Snapshot, error) {
	c := conn.Snapshot{ID: r.id}
	var started, ended, seen int64
	var v, scope, flags, netScope, protocol uint8
	var local, remote []byte
	var localPort, remotePort, icmp uint16
	var queryJSON string
	err := s.selectOne.QueryRowContext(ctx, int64(r.id)).Scan(&started, &ended, &seen, &v, &scope, &flags, &netScope, &protocol,
		&local, &localPort, &remote, &remotePort, &icmp, &c.Interface, &c.Packets, &c.ReceivedBytes, &c.SentBytes, &queryJSON)
	if err != nil {
		return c, err //nolint:wrapcheck // Query says which connection
	}
	c.Started, c.Ended, c.LastSeen = moment(started), moment(ended), moment(seen)
	c.Decision.Verdict, c.Decision.Scope, c.Scope = verdict.Verdict(v), verdict.Scope(scope), netscope.Scope(netScope)
	c.Enforced, c.Internal, c.Direction = flags&flagEnforced != 0, flags&flagInternal != 0, packet.Outbound
	if flags&flagInbound != 0 {
		c.Direction = packet.Inbound
	}
	c.Tuple = packet.Tuple{Local: addrPort(local, localPort), Remote: addrPort(remote, remotePort), Protocol: packet.Protocol(protocol)}
	c.ICMPType, c.ICMPCode = uint8(icmp>>8), uint8(icmp)
	if queryJSON != "" {
		if err := json.Unmarshal([]byte(queryJSON), &c.Query); err != nil {
			return c, err //nolint:wrapcheck // Query says which connection
		}
	}
	if c.Process, err = s.process(ctx, r.process, maxParents); err != nil {
		return c, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return c, s.dims.complete(&c, r)
}

func addrPort(b []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(b) // a broken row has an invalid address
	return netip.AddrPortFrom(a, port)
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// maxParents bounds the ancestors that are read.
const maxParents = 64

// process reads a process with its parents; nil is not known.
func (s *Store) process(ctx context.Context, id uint32, depth int) (*conn.Process, error) {
	if id == 0 || depth == 0 {
		return nil, nil //nolint:nilnil // documented
	}
	var p conn.Process
	var parent uint32
	var restText string
	err := s.selectProcess.QueryRowContext(ctx, id).Scan(&p.PID, &p.Path, &p.Script, &parent, &restText)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", id, err)
	}
	var rest processRest
	if err := json.Unmarshal([]byte(restText), &rest); err != nil {
		return nil, fmt.Errorf("process %d: %w", id, err)
	}
	p.UID, p.Args, p.Cgroup, p.User = rest.UID, rest.Args, rest.Cgroup, rest.User
	p.Package, p.Services, p.App, p.StartTicks = rest.Package, rest.Services, rest.App, rest.StartTicks
	if p.InnerPath = rest.InnerPath; p.InnerPath != "" {
		p.Path = ""
	}
	p.Parent, err = s.process(ctx, parent, depth-1)
	return &p, err
}

const selectProcess = `SELECT p.pid, COALESCE(a.path, ''), COALESCE(a.script, ''), p.parent, p.rest
	FROM processes p LEFT JOIN apps a ON a.id = p.app WHERE p.id = ?`
