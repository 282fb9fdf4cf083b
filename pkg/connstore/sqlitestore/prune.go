package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// pruneStep is how many rows go in one transaction: new ones do not wait for long.
const pruneStep = 5000

// Prune removes connections that started before old, and as many of the oldest as it takes for the database to have at most maxSize
// bytes; zero is no limit. Those that have not ended go too: they are written again when they change.
func (s *Store) Prune(ctx context.Context, old time.Time, maxSize int64) (removed int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		n, err := s.pruneOnce(ctx, old, maxSize)
		removed += n
		if err != nil || n == 0 {
			return removed, err
		}
	}
}

// pruneSome does a step of Prune. It returns 0 if there is no more to do.
func (s *Store) pruneSome(ctx context.Context, old time.Time, maxSize int64) (removed int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.pruneOnce(ctx, old, maxSize)
}

// pruneOnce is pruneSome with writing held.
func (s *Store) pruneOnce(ctx context.Context, old time.Time, maxSize int64) (removed int, err error) {
	step, err := s.surplus(ctx, old, maxSize)
	if err != nil || step == 0 {
		return 0, err
	}
	if removed, err = s.removeOldest(ctx, step); err != nil {
		return removed, fmt.Errorf("remove old connections: %w", classified(err))
	}
	if err := s.tidy(ctx); err != nil {
		return removed, fmt.Errorf("remove what no connection has any more: %w", classified(err))
	}
	return removed, nil
}

// surplus returns how many rows have to go, a step's worth at most.
func (s *Store) surplus(ctx context.Context, old time.Time, maxSize int64) (int, error) {
	s.mu.RLock()
	n, count := 0, s.index.n
	if !old.IsZero() {
		// numbers are in the order of starts: what is before an old one is as old, whatever the clock said then
		n = count
		s.index.backwards(func(r *row) bool {
			if r.started < old.UnixNano() {
				return false
			}
			n--
			return true
		})
		n = min(n, pruneStep)
	}
	s.mu.RUnlock()
	if n > 0 || maxSize <= 0 || count == 0 {
		return n, nil
	}
	used, err := s.used(ctx)
	if err != nil || used <= maxSize {
		return 0, err
	}
	// rows have about one size; a little more than needed, so that this is not done all the time
	return min(count, pruneStep, max(1, int(float64(count)*(1.02-float64(maxSize)/float64(used))))), nil
}

// used returns how many bytes of the file have something in them.
func (s *Store) used(ctx context.Context) (int64, error) {
	var pages, free, size int64
	if err := s.writes.QueryRowContext(ctx, "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size").
		Scan(&pages, &free, &size); err != nil {
		return 0, fmt.Errorf("size of the database: %w", classified(err))
	}
	return (pages - free) * size, nil
}

func (s *Store) removeOldest(ctx context.Context, n int) (int, error) {
	s.mu.RLock()
	before := s.index.at(n-1).id + 1
	s.mu.RUnlock()
	if _, err := s.writes.ExecContext(ctx, "DELETE FROM connections WHERE id < ?", int64(before)); err != nil {
		return 0, err //nolint:wrapcheck // Prune says what for
	}
	s.mu.Lock()
	s.index.removeBefore(before)
	s.mu.Unlock()
	s.removed += n
	_, err := s.writes.ExecContext(ctx, "PRAGMA incremental_vacuum")
	return n, err //nolint:wrapcheck // Prune says what for
}

// tidy removes values that no connection has any more, when a good part of the connections went.
func (s *Store) tidy(ctx context.Context) error {
	s.mu.RLock()
	enough := s.removed >= max(pruneStep, s.index.n/4)
	s.mu.RUnlock()
	if !enough {
		return nil
	}
	s.removed = 0
	inUse, err := s.inUse(ctx)
	if err != nil {
		return err
	}
	tx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return err //nolint:wrapcheck // Prune says what for
	}
	gone, err := removeUnused(ctx, tx, inUse)
	if err == nil {
		err = tx.Commit()
	} else if rollback := tx.Rollback(); !errors.Is(rollback, sql.ErrTxDone) {
		err = errors.Join(err, rollback)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dims.forget(gone)
	return nil
}

// inUse returns the numbers that rows refer to, by table.
func (s *Store) inUse(ctx context.Context) (map[string]map[uint32]bool, error) {
	used := map[string]map[uint32]bool{"processes": {}, "apps": {}, "names": {}, "reasons": {}, "ways": {}}
	s.mu.RLock()
	s.index.backwards(func(r *row) bool {
		used["processes"][r.process], used["names"][r.name], used["reasons"][r.reason], used["ways"][r.way] = true, true, true, true
		return true
	})
	s.mu.RUnlock()
	// parents have lower numbers than their children
	err := each(ctx, s.writes, "SELECT id, app, parent FROM processes ORDER BY id DESC", func(rows *sql.Rows) error {
		var id, ofApp, parent uint32
		if err := rows.Scan(&id, &ofApp, &parent); err != nil {
			return err //nolint:wrapcheck // Prune says what for
		}
		if used["processes"][id] {
			used["processes"][parent], used["apps"][ofApp] = true, true
		}
		return nil
	})
	return used, err
}

// removeUnused deletes the other numbers, and returns them.
func removeUnused(ctx context.Context, tx *sql.Tx, used map[string]map[uint32]bool) (gone map[string][]uint32, err error) {
	gone = map[string][]uint32{}
	for _, table := range slices.Sorted(maps.Keys(used)) {
		rows, err := tx.QueryContext(ctx, "SELECT id FROM "+table)
		if err != nil {
			return nil, err //nolint:wrapcheck // Prune says what for
		}
		for rows.Next() {
			var id uint32
			if err := rows.Scan(&id); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			if !used[table][id] {
				gone[table] = append(gone[table], id)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
		for _, id := range gone[table] {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE id = ?", id); err != nil {
				return nil, err //nolint:wrapcheck // Prune says what for
			}
		}
	}
	return gone, nil
}

func (d *dims) forget(gone map[string][]uint32) {
	for table, remove := range map[string]func(uint32){
		"processes": d.processes.remove, "apps": d.apps.remove, "names": d.names.remove, "reasons": d.reasons.remove, "ways": d.ways.remove,
	} {
		for _, id := range gone[table] {
			remove(id)
		}
	}
}
