package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Store is a database of connections. Query may be called from any goroutine; the methods that write take turns.
type Store struct {
	path string
	// writes has one connection, reads has several.
	writes, reads *sql.DB
	selectOne     *sql.Stmt
	selectProcess *sql.Stmt
	upsert        *sql.Stmt

	// writing is held by what changes the database.
	writing sync.Mutex
	// removed counts rows since values that nobody has any more were looked for.
	removed int

	mu    sync.RWMutex // guards what follows; held for memory only
	index index
	dims  *dims
}

// Errors that callers can do something about, each wrapped by those of Open, Write and Prune.
var (
	// ErrFull means that the disk is full.
	ErrFull = errors.New("sqlitestore: the disk is full")
	// ErrReadOnly means that the database, or the disk it is on, must not be written to.
	ErrReadOnly = errors.New("sqlitestore: read-only")
	// ErrCorrupt means that the file is no database, or a broken one.
	ErrCorrupt = errors.New("sqlitestore: not a database, or a broken one")
)

// classified adds the meaning of SQLite's error codes.
func classified(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE { // no room for the index of the log
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	switch e.Code() & 0xff { // the rest says more about the same
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// Open opens the database at path, and makes it, and its folder, if there is none; both can be read by their owner only (on
// Windows, by whom the folder above lets). Connections that had not ended when it was written last have ended when they were seen last.
//
// It reads what queries need into memory, about a second for 500,000 connections.
func Open(ctx context.Context, path string) (s *Store, err error) {
	s = &Store{path: path, dims: newDims()}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open %s: %w", path, errors.Join(classified(err), s.Close()))
			s = nil
		}
	}()
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return s, err //nolint:wrapcheck // wrapped above
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the caller says where
	if err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
			err = fmt.Errorf("%w: %w", ErrReadOnly, err)
		}
		return s, err
	}
	if err = f.Close(); err != nil {
		return s, err //nolint:wrapcheck // wrapped above
	}
	if s.writes, err = connect(path, 1); err != nil {
		return s, err
	}
	if s.reads, err = connect(path, 2); err != nil {
		return s, err
	}
	if err = s.prepare(ctx); err != nil {
		return s, err
	}
	return s, s.load(ctx)
}

// connect sets the options that SQLite has for each connection: a log that is written ahead, which survives a crash of this process
// whole and one of the machine but for the last moments; and file space that is given back when rows go.
func connect(path string, most int) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // Open says what was opened
	}
	slashed := filepath.ToSlash(abs)
	if slashed[0] != '/' {
		slashed = "/" + slashed // C:/...
	}
	options := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(5000)", "auto_vacuum(INCREMENTAL)", "journal_mode(WAL)", "synchronous(NORMAL)", "journal_size_limit(4194304)",
		"cache_size(-4096)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: slashed, RawQuery: options.Encode()}).String())
	if err != nil {
		return nil, err //nolint:wrapcheck // Open says what was opened
	}
	db.SetMaxOpenConns(most)
	return db, nil
}

func (s *Store) prepare(ctx context.Context) (err error) {
	if err := migrate(ctx, s.writes); err != nil {
		return err
	}
	if s.upsert, err = s.writes.PrepareContext(ctx, upsert); err != nil {
		return err //nolint:wrapcheck // Open says what was opened
	}
	if s.selectOne, err = s.reads.PrepareContext(ctx, selectOne); err != nil {
		return err //nolint:wrapcheck // Open says what was opened
	}
	s.selectProcess, err = s.reads.PrepareContext(ctx, selectProcess)
	return err //nolint:wrapcheck // Open says what was opened
}

// Close closes the database. Queries that run end with an error.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var errs []error
	for _, st := range []*sql.Stmt{s.upsert, s.selectOne, s.selectProcess} {
		if st != nil {
			errs = append(errs, st.Close())
		}
	}
	for _, db := range []*sql.DB{s.reads, s.writes} { // the last one to close tidies up
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// load reads what is held in memory.
func (s *Store) load(ctx context.Context) error {
	if _, err := s.writes.ExecContext(ctx, "UPDATE connections SET ended = MAX(seen, started, 1) WHERE ended = 0"); err != nil {
		return fmt.Errorf("end connections of the last run: %w", err)
	}
	for _, load := range []struct {
		query string
		scan  func(*sql.Rows) error
	}{
		{"SELECT id, path, script FROM apps", func(r *sql.Rows) error {
			var id uint32
			var a app
			err := r.Scan(&id, &a.path, &a.script)
			s.dims.apps.put(id, a)
			return err //nolint:wrapcheck // load says what for
		}},
		{"SELECT id, domain, cnames FROM names", func(r *sql.Rows) error {
			var id uint32
			var n name
			err := r.Scan(&id, &n.domain, &n.cnames)
			s.dims.names.put(id, n)
			return err //nolint:wrapcheck // load says what for
		}},
		{"SELECT id, code, text, rule, decider FROM reasons", func(r *sql.Rows) error {
			var id uint32
			var v verdict.Reason
			err := r.Scan(&id, &v.Code, &v.Text, &v.Rule, &v.By)
			s.dims.reasons.put(id, v)
			return err //nolint:wrapcheck // load says what for
		}},
		{"SELECT id, interface, split, tunnel FROM ways", func(r *sql.Rows) error {
			var id uint32
			var w way
			err := r.Scan(&id, &w.iface, &w.split, &w.tunnel)
			s.dims.ways.put(id, w)
			return err //nolint:wrapcheck // load says what for
		}},
		{"SELECT COALESCE(MAX(id), 0) FROM processes", func(r *sql.Rows) error { return r.Scan(&s.dims.processes.last) }},
		{`SELECT c.id, c.started, c.ended, c.seen, c.received, c.sent, c.remote, COALESCE(p.app, 0), c.name, c.reason, c.way, c.process,
			COALESCE(p.pid, 0), c.local_port, c.remote_port, c.verdict, c.protocol, c.flags
			FROM connections c LEFT JOIN processes p ON p.id = c.process ORDER BY c.id`, s.loadRow},
	} {
		if err := each(ctx, s.reads, load.query, load.scan); err != nil {
			return fmt.Errorf("read into memory: %w", err)
		}
	}
	return nil
}

// each calls scan for each row of an answer.
func each(ctx context.Context, db *sql.DB, query string, scan func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what for
	}
	defer rows.Close() //nolint:errcheck // Err has what matters
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err() //nolint:wrapcheck // the caller says what for
}

func (s *Store) loadRow(rows *sql.Rows) error {
	var r row
	var id, ended int64
	var remote sql.RawBytes
	var v, protocol, flags uint8
	if err := rows.Scan(&id, &r.started, &ended, &r.seen, &r.received, &r.sent, &remote, &r.app, &r.name, &r.reason, &r.way, &r.process,
		&r.pid, &r.localPort, &r.remotePort, &v, &protocol, &flags); err != nil {
		return err //nolint:wrapcheck // load says what for
	}
	r.id, r.ended, r.verdict, r.protocol = conn.ID(id), ended != 0, verdict.Verdict(v), packet.Protocol(protocol)
	r.query = flags&flagQuery != 0
	if flags&flagInbound != 0 {
		r.direction = packet.Inbound
	}
	if a := addrPort(remote, 0).Addr(); a.IsValid() {
		r.remote, r.v4 = a.As16(), a.Is4()
	}
	s.index.put(&r)
	return nil
}

// Last returns the highest number of a connection, 0 if there is none. Numbers above are free.
func (s *Store) Last() conn.ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := len(s.index.chunks); n > 0 {
		c := s.index.chunks[n-1]
		return c[len(c)-1].id
	}
	return 0
}

// Len returns the number of connections.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.n
}

// figures returns what is known of the use that a connection made, for comparison.
func (s *Store) figures(id conn.ID) (received, sent uint64, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.index.get(id); r != nil {
		return r.received, r.sent, true
	}
	return 0, 0, false
}

// Size returns how many bytes the database and its log take on the disk.
func (s *Store) Size() (int64, error) {
	var all int64
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(s.path + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("size of the database: %w", err)
		}
		all += info.Size()
	}
	return all, nil
}
