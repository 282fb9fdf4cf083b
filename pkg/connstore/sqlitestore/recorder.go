package sqlitestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/verdict"
)

// RecorderConfig is the configuration of a Recorder.
type RecorderConfig struct {
	// Path of the database. Required.
	Path string
	// Live is whose connections are written. Required.
	Live *connstore.Live
	// Skip tells connections that shall not be written. It must be fast. Optional.
	Skip func(s *conn.Snapshot) bool
	// Keep is how long connections are kept; 0 is for ever.
	Keep time.Duration
	// MaxSize is how many bytes of the database may be in use; 0 is no limit.
	MaxSize int64
	// MaxPending is how many changed connections wait at most while nothing can be written; more are lost. Default 50,000.
	MaxPending int
	// Report is called when something goes wrong, and when all is well again. It must not block. Optional.
	Report func(Condition)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Condition is how a Recorder is.
type Condition struct {
	// Err says what is wrong; nil is nothing. It may wrap ErrFull, ErrReadOnly, ErrCorrupt or ErrNewer.
	Err error
	// Lost is how many connections, or changes of such, could not be kept until it was well again.
	Lost uint64
	// Aside is where a broken database was moved to, since this Recorder began; empty if there was none.
	Aside string
}

const (
	// flushEvery is how much is lost at most when the process is killed, and a little less than a second; more in sleep mode.
	flushEvery  = 500 * time.Millisecond
	flushAsleep = 5 * time.Second
	// usageEvery is how old the figures of a connection get that only transfers.
	usageEvery = time.Minute
	// pruneEvery and pruneAfter are when old connections go: after a time or after so many new ones.
	pruneEvery = 10 * time.Minute
	pruneAfter = 20_000
	// batch is how many connections are written at once.
	batch = 4096
	// lastWords is how long the last write may take.
	lastWords = 20 * time.Second
	// patience is the longest time between two attempts.
	patience = time.Minute
)

// noted is a connection, or the record of a DNS query.
type noted struct {
	id    conn.ID
	conn  *conn.Conn
	query *conn.Snapshot
}

func (n *noted) snapshot() conn.Snapshot {
	if n.conn == nil {
		return *n.query
	}
	return n.conn.Snapshot()
}

// ErrUnavailable is wrapped when there is no database to ask.
var ErrUnavailable = errors.New("sqlitestore: no history")

// Recorder writes the connections of a connstore.Live into a Store, each when it was decided, when something about it changes, and
// when it ends; and DNS queries.
type Recorder struct {
	cfg   RecorderConfig
	store atomic.Pointer[Store]
	well  atomic.Pointer[Condition]
	// floor: connections with such numbers may be others in the database. It is set when the database was opened first.
	floor  conn.ID
	opened bool
	aside  string
	// written since the last prune, which was at pruned
	written int
	pruned  time.Time

	mu      sync.Mutex // guards what follows; held for memory only
	on      bool
	changed map[conn.ID]noted
	lost    uint64
	mode    module.Mode
	tickers []*module.Ticker
}

// NewRecorder returns a Recorder for connections that begin from now on; it writes while Run runs.
func NewRecorder(cfg RecorderConfig) *Recorder {
	cfg.MaxPending = cmp.Or(cfg.MaxPending, 50_000)
	if cfg.Report == nil {
		cfg.Report = func(Condition) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{cfg: cfg, changed: map[conn.ID]noted{}}
	r.well.Store(&Condition{})
	cfg.Live.OnChange(r.note)
	cfg.Live.OnQuery(r.noteQuery)
	return r
}

// note remembers that a connection has to be written. It is called from the packet path.
func (r *Recorder) note(c *conn.Conn) {
	s := c.State()
	if s.Decision.Verdict == verdict.Undecided && s.Live() {
		return // it will be decided
	}
	if r.cfg.Skip != nil && r.cfg.Skip(s) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.changed[s.ID]; !ok {
		r.noteLocked(noted{id: s.ID, conn: c})
	}
}

// noteQuery is note for the record of a DNS query, of which the latest counts.
func (r *Recorder) noteQuery(s *conn.Snapshot) {
	if r.cfg.Skip != nil && r.cfg.Skip(s) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.changed[s.ID]; ok {
		r.changed[s.ID] = noted{id: s.ID, query: s}
		return
	}
	r.noteLocked(noted{id: s.ID, query: s})
}

// noteLocked notes what is not noted yet.
func (r *Recorder) noteLocked(n noted) {
	if !r.on {
		return
	}
	if len(r.changed) >= r.cfg.MaxPending {
		r.lost++
		return
	}
	r.changed[n.id] = n
}

// Run opens the database and writes until ctx is done; then it writes what is left, and closes. It calls ready when the numbers of
// connections that begin from then on are free: connections that begin earlier may not be written. That the database cannot be opened
// or written to is reported, not returned: Run tries again.
func (r *Recorder) Run(ctx context.Context, ready func()) error {
	defer r.pause()
	r.mu.Lock()
	r.on = true
	r.mu.Unlock()
	err := r.open(ctx)
	r.report(err)
	ready()
	flush, usage := r.ticker(flushEvery, flushAsleep), r.ticker(usageEvery, 0)
	wait := newBackOff()
	for {
		select {
		case <-ctx.Done():
			return r.finish(ctx)
		case <-usage.C():
			r.noteUsage()
		case <-flush.C():
			if wait.over() {
				err := r.work(ctx)
				if ctx.Err() == nil {
					wait.result(err)
					r.report(err)
				}
			}
		}
	}
}

// SetSleep makes it write less often while asleep: as its machine saves power, a kill loses 5 seconds.
func (r *Recorder) SetSleep(mode module.Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = mode
	for _, t := range r.tickers {
		t.SetSleep(mode)
	}
}

func (r *Recorder) ticker(awake, asleep time.Duration) *module.Ticker {
	t := module.NewTicker(awake, asleep)
	r.mu.Lock()
	defer r.mu.Unlock()
	t.SetSleep(r.mode)
	r.tickers = append(r.tickers, t)
	return t
}

// pause ends taking notes.
func (r *Recorder) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tickers {
		t.Stop()
	}
	r.tickers = nil
	r.on, r.changed = false, map[conn.ID]noted{}
}

// finish writes everything, for the last time.
func (r *Recorder) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := r.open(ctx); err != nil {
		r.mu.Lock()
		r.lost += uint64(len(r.changed))
		r.mu.Unlock()
		r.report(err)
		return nil // documented: it is reported, not returned
	}
	s := r.store.Load()
	r.noteUsage()
	err := r.flush(ctx, s)
	r.store.Store(nil)
	return errors.Join(err, s.Close())
}

// work does what is due.
func (r *Recorder) work(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	s := r.store.Load()
	err := r.flush(ctx, s)
	if err == nil && (r.written >= pruneAfter || time.Since(r.pruned) >= pruneEvery) {
		var old time.Time
		if r.cfg.Keep > 0 {
			old = time.Now().Add(-r.cfg.Keep)
		}
		// one step a round: what comes meanwhile is written between two
		var removed int
		if removed, err = s.pruneSome(ctx, old, r.cfg.MaxSize); err == nil && removed == 0 {
			r.written, r.pruned = 0, time.Now()
		}
	}
	if errors.Is(err, ErrCorrupt) {
		r.store.Store(nil)
		return errors.Join(s.Close(), r.moveAside())
	}
	return err
}

// open opens the database if it is not open. A broken one is moved aside, and history begins anew.
func (r *Recorder) open(ctx context.Context) error {
	if r.store.Load() != nil {
		return nil
	}
	s, err := Open(ctx, r.cfg.Path)
	if errors.Is(err, ErrCorrupt) {
		if err := r.moveAside(); err != nil {
			return err
		}
		s, err = Open(ctx, r.cfg.Path)
	}
	if err != nil {
		return err
	}
	if last := s.Last(); !r.opened {
		r.floor, r.opened = last, true
		r.cfg.Live.SkipIDs(last)
	}
	r.store.Store(s)
	return nil
}

func (r *Recorder) moveAside() error {
	aside := r.cfg.Path + ".broken"
	for n := 2; ; n++ { // an older one is somebody's to look at
		if _, err := os.Lstat(aside); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return fmt.Errorf("move a broken database aside: %w", err)
		}
		aside = r.cfg.Path + ".broken." + strconv.Itoa(n)
	}
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(r.cfg.Path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("move a broken database aside: %w", err)
		}
	}
	r.cfg.Logger.Warn("the database was broken; it was moved aside, and history begins anew", "path", r.cfg.Path, "aside", aside)
	r.aside = aside
	return nil
}

// noteUsage notes connections that have transferred something since they were written.
func (r *Recorder) noteUsage() {
	s := r.store.Load()
	if s == nil {
		return
	}
	r.cfg.Live.Range(func(c *conn.Conn) bool {
		received, sent := c.Usage()
		if gotReceived, gotSent, ok := s.figures(c.State().ID); ok && (gotReceived != received || gotSent != sent) {
			r.note(c)
		}
		return true
	})
}

// flush writes what changed. What could not be written stays noted.
func (r *Recorder) flush(ctx context.Context, s *Store) error {
	for changed := r.take(); len(changed) > 0; {
		n := min(batch, len(changed))
		all := make([]conn.Snapshot, 0, n)
		for i := range changed[:n] {
			if changed[i].id > r.floor {
				all = append(all, changed[i].snapshot())
			}
		}
		if err := s.Write(ctx, all); err != nil {
			r.putBack(changed)
			return err
		}
		r.written += len(all)
		changed = changed[n:]
	}
	return nil
}

// take returns what is noted, in the order of numbers.
func (r *Recorder) take() []noted {
	r.mu.Lock()
	changed := r.changed
	if len(changed) > 0 {
		r.changed = make(map[conn.ID]noted, len(changed))
	}
	r.mu.Unlock()
	all := make([]noted, 0, len(changed))
	for _, n := range changed {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b noted) int { return cmp.Compare(a.id, b.id) })
	return all
}

func (r *Recorder) putBack(all []noted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range all {
		if _, newer := r.changed[n.id]; !newer {
			r.noteLocked(n)
		}
	}
}

// report tells about a change for the worse or for the better.
func (r *Recorder) report(err error) {
	r.mu.Lock()
	now := Condition{Err: err, Lost: r.lost, Aside: r.aside}
	r.mu.Unlock()
	before := r.well.Swap(&now)
	if errText(before.Err) == errText(err) && before.Lost == now.Lost && before.Aside == now.Aside {
		return
	}
	r.cfg.Report(now)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Query answers q from the database. Changes are in it within a second. The error wraps ErrUnavailable while there is no database,
// and connstore.ErrQuery if the query is not valid.
func (r *Recorder) Query(ctx context.Context, q connstore.Query) (connstore.Page, error) {
	s := r.store.Load()
	if s == nil {
		if err := r.well.Load().Err; err != nil {
			return connstore.Page{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return connstore.Page{}, ErrUnavailable
	}
	return s.Query(ctx, q)
}

// Condition returns how the Recorder is.
func (r *Recorder) Condition() Condition { return *r.well.Load() }

// Figures are about a Recorder's database.
type Figures struct {
	Connections int   `json:"connections"`
	Bytes       int64 `json:"bytes"`
}

// Figures returns them; all are 0 while there is no database.
func (r *Recorder) Figures() (f Figures, err error) {
	if s := r.store.Load(); s != nil {
		f.Connections = s.Len()
		f.Bytes, err = s.Size()
	}
	return f, err
}

// backOff says when to try again.
type backOff struct {
	wait time.Duration
	next time.Time
}

func newBackOff() *backOff { return &backOff{} }

func (b *backOff) over() bool { return !time.Now().Before(b.next) }

func (b *backOff) result(err error) {
	if err == nil {
		*b = backOff{}
		return
	}
	b.wait = min(max(time.Second, 2*b.wait), patience)
	b.next = time.Now().Add(b.wait)
}
