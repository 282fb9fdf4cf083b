package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
)

// Bits of connections.flags.
const (
	flagEnforced = 1 << iota
	flagInternal
	flagInbound
	flagQuery // a DNS query, which has JSON in connections.query
)

const upsert = `INSERT INTO connections (id, started, ended, seen, verdict, verdict_scope, flags, net_scope, protocol,
	local, local_port, remote, remote_port, icmp, interface, process, name, reason, way, packets, received, sent, query)
	VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
	ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, seen = excluded.seen, verdict = excluded.verdict,
	verdict_scope = excluded.verdict_scope, flags = excluded.flags, process = excluded.process, name = excluded.name,
	reason = excluded.reason, way = excluded.way, packets = excluded.packets, received = excluded.received, sent = excluded.sent,
	query = excluded.query`

// Write writes connections, new and known ones, all of them or, on error, none. The error wraps ErrFull, ErrReadOnly or ErrCorrupt if
// that is the reason.
func (s *Store) Write(ctx context.Context, all []conn.Snapshot) (err error) {
	if len(all) == 0 {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	rows := s.intern(all)
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.dims.rollback()
			err = fmt.Errorf("write %d connections: %w", len(all), classified(err))
			return
		}
		s.dims.commit()
		for i := range rows {
			s.index.put(&rows[i])
		}
	}()
	tx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return err //nolint:wrapcheck // wrapped above
	}
	if err = s.insert(ctx, tx, all, rows); err != nil {
		if rollback := tx.Rollback(); !errors.Is(rollback, sql.ErrTxDone) {
			err = errors.Join(err, rollback)
		}
		return err
	}
	return tx.Commit() //nolint:wrapcheck // wrapped above
}

// intern makes rows, and numbers for the values in them.
func (s *Store) intern(all []conn.Snapshot) []row {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := make([]row, len(all))
	for i := range all {
		c := &all[i]
		r := &rows[i]
		*r = row{
			id: c.ID, started: connstore.Stamp(c.Started), seen: connstore.Stamp(c.LastSeen), received: c.ReceivedBytes, sent: c.SentBytes,
			name: s.dims.names.intern(nameOf(c)), reason: s.dims.reasons.intern(c.Decision.Reason), way: s.dims.ways.intern(wayOf(c)),
			localPort: c.Tuple.Local.Port(), remotePort: c.Tuple.Remote.Port(), verdict: c.Decision.Verdict,
			protocol: c.Tuple.Protocol, direction: c.Direction, ended: !c.Live(), query: c.Query != nil,
		}
		r.process, r.app = s.dims.internProcess(c.Process)
		if c.Process != nil {
			r.pid = int32(c.Process.PID)
		}
		if a := c.Tuple.Remote.Addr(); a.IsValid() {
			r.remote, r.v4 = a.As16(), a.Is4()
		}
	}
	return rows
}

func (s *Store) insert(ctx context.Context, tx *sql.Tx, all []conn.Snapshot, rows []row) error {
	if err := s.insertValues(ctx, tx); err != nil {
		return err
	}
	st := tx.StmtContext(ctx, s.upsert)
	defer st.Close() //nolint:errcheck // it goes with the transaction
	for i := range all {
		c, r := &all[i], &rows[i]
		if _, err := st.ExecContext(ctx, int64(c.ID), r.started, connstore.Stamp(c.Ended), r.seen,
			uint8(c.Decision.Verdict), uint8(c.Decision.Scope), flagsOf(c), uint8(c.Scope), uint8(c.Tuple.Protocol),
			addrBytes(c.Tuple.Local.Addr()), r.localPort, addrBytes(c.Tuple.Remote.Addr()), r.remotePort,
			uint16(c.ICMPType)<<8|uint16(c.ICMPCode), c.Interface, r.process, r.name, r.reason, r.way,
			int64(c.Packets), int64(c.ReceivedBytes), int64(c.SentBytes), queryText(c)); err != nil {
			return fmt.Errorf("connection %d: %w", c.ID, err)
		}
	}
	return nil
}

func flagsOf(c *conn.Snapshot) (f uint8) {
	if c.Enforced {
		f |= flagEnforced
	}
	if c.Internal {
		f |= flagInternal
	}
	if c.Direction == packet.Inbound {
		f |= flagInbound
	}
	if c.Query != nil {
		f |= flagQuery
	}
	return f
}

// queryText is JSON of what a DNS query adds; empty for a connection.
func queryText(c *conn.Snapshot) string {
	if c.Query == nil {
		return ""
	}
	return text(c.Query)
}

func addrBytes(a netip.Addr) []byte {
	if !a.IsValid() {
		return []byte{}
	}
	return a.AsSlice()
}

// insertValues writes the values that are new. Nobody else changes the dimensions while writing is held.
func (s *Store) insertValues(ctx context.Context, tx *sql.Tx) error {
	d := s.dims
	for _, err := range []error{
		insertFresh(ctx, tx, &d.apps, "INSERT INTO apps VALUES (?,?,?)", func(a app) []any { return []any{a.path, a.script} }),
		insertFresh(ctx, tx, &d.names, "INSERT INTO names VALUES (?,?,?)", func(n name) []any { return []any{n.domain, n.cnames} }),
		insertFresh(ctx, tx, &d.ways, "INSERT INTO ways VALUES (?,?,?,?)", func(w way) []any { return []any{w.iface, w.split, w.tunnel} }),
		insertFresh(ctx, tx, &d.processes, "INSERT INTO processes VALUES (?,?,?,?,?)", func(p process) []any {
			return []any{p.app, p.pid, p.parent, p.rest}
		}),
		s.insertReasons(ctx, tx),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) insertReasons(ctx context.Context, tx *sql.Tx) error {
	for _, id := range s.dims.reasons.fresh {
		r := s.dims.reasons.all[id]
		if _, err := tx.ExecContext(ctx, "INSERT INTO reasons VALUES (?,?,?,?,?)", id, string(r.Code), r.Text, r.Rule, r.By); err != nil {
			return fmt.Errorf("write a reason: %w", err)
		}
	}
	return nil
}

func insertFresh[T comparable](ctx context.Context, tx *sql.Tx, d *dim[T], query string, values func(T) []any) error {
	for _, id := range d.fresh {
		if _, err := tx.ExecContext(ctx, query, append([]any{id}, values(d.all[id])...)...); err != nil {
			return fmt.Errorf("write what connections have in common: %w", err)
		}
	}
	return nil
}
