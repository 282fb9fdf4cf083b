package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

var (
	// ErrRunning is returned by Run while another Run of the same Server is active.
	ErrRunning = errors.New("nameserver: already running")
	// ErrStopped is returned by Lookup while Run is not active.
	ErrStopped = errors.New("nameserver: not running")
	// ErrDisabled is returned by Lookup while there are no upstreams.
	ErrDisabled = errors.New("nameserver: disabled, because no upstream servers are configured")
)

// States that a Server has beside those of its upstream servers.
const (
	stateLoop   = "loop"
	stateListen = "listen"
)

// Server is the nameserver. Make it with New, then Run it. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	cache  *cache
	setup  atomic.Pointer[setup]
	dialer dialer
	own    ownQueries
	stats  counters
	ids    atomic.Uint64
	locals localAddrs
	slots  chan struct{} // one for each query that waits
	looped atomic.Bool
	quick  QuickDecider // nil if the Decider is none

	wg sync.WaitGroup // all goroutines; enter and spawn add to it

	mu      sync.Mutex // guards what follows
	running bool
	ctx     context.Context // of Run
	changed chan struct{}   // closed by the next Configure
	addrs   []netip.AddrPort
}

// New checks the configuration, without opening anything. Errors wrap ErrConfig.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	settings, err := cfg.Settings.complete(cfg.Listen)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, cache: newCache(cfg.CacheBytes), dialer: dialer{cfg.Announce, cfg.Withdraw},
		slots: make(chan struct{}, cfg.MaxQueries), changed: make(chan struct{}), ctx: context.Background(),
	}
	s.quick, _ = cfg.Decider.(QuickDecider)
	s.locals.ask = cfg.IsLocal
	s.setup.Store(s.newSetup(settings, nil))
	return s, nil
}

// Enabled reports whether there are upstream servers. A disabled Server does not listen: nothing may be redirected to it.
func (s *Server) Enabled() bool { return len(s.setup.Load().Upstreams) > 0 }

// Settings returns those that are in force, with their defaults.
func (s *Server) Settings() Settings { return s.setup.Load().Settings }

// Configure replaces the settings, also while the Server runs; the cache is emptied. Queries under way are asked again where their server
// is no longer configured. If the error, which wraps ErrConfig, is not nil, nothing has changed.
func (s *Server) Configure(settings Settings) error {
	settings, err := settings.complete(s.cfg.Listen)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old := s.setup.Load()
	st := s.newSetup(settings, old)
	s.setup.Store(st)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	s.cache.flush(nil)
	old.retire(st)
	return nil
}

// retire ends the servers that next does not have.
func (st *setup) retire(next *setup) {
	for u, srv := range st.servers {
		if next.servers[u] != srv {
			srv.retire()
		}
	}
}

// Run listens while the Server is enabled, and answers until ctx is done; then it returns nil. ready is called, if it is not nil, once it
// listens, or is disabled and waits for settings. Other errors mean that it could not listen, or could not go on. It may run again after
// it returned; while it is active, another call returns ErrRunning. Ports below 1024 need CAP_NET_BIND_SERVICE on Linux.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.start(ctx) {
		return ErrRunning
	}
	defer s.finish(cancel)
	var once sync.Once
	tell := func() {
		if ready != nil {
			once.Do(ready)
		}
	}
	for {
		changed := s.change()
		if s.Enabled() {
			if err := s.serve(ctx, tell); err != nil || ctx.Err() != nil {
				return err
			}
			continue
		}
		tell()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) start(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	s.running, s.ctx = true, ctx
	return true
}

// finish waits for all goroutines. The next Run begins with new servers: nothing is known of them after a while.
func (s *Server) finish(cancel context.CancelFunc) {
	cancel()
	s.mu.Lock()
	old := s.setup.Load()
	st := s.newSetup(old.Settings, nil)
	s.setup.Store(st)
	s.mu.Unlock()
	old.retire(st)
	s.wg.Wait()
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	if s.cfg.States != nil {
		s.cfg.States.Remove(stateLoop)
	}
}

// enter counts in somebody who uses the Server; leave counts them out.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running || s.ctx.Err() != nil {
		return ErrStopped
	}
	s.wg.Add(1)
	return nil
}

func (s *Server) leave() { s.wg.Done() }

// spawn runs fn in a goroutine that Run waits for. Only those who are counted themselves may call it.
func (s *Server) spawn(fn func()) { s.wg.Go(fn) }

// life is the context of Run.
func (s *Server) life() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

func (s *Server) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Addrs returns the addresses that are listened on now, by UDP and TCP; none unless Run is active and the Server enabled.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addrs)
}

// Lookup asks as a client would, but for the Decider, the Recorder and Config.OnAnswer, which are not told. Errors wrap ErrStopped,
// ErrDisabled or ErrNoAnswer, or are ctx's. A name that does not exist is no error, but an Answer that says so.
func (s *Server) Lookup(ctx context.Context, name string, t Type) (Reply, error) {
	clean, err := canonical(name)
	if err != nil {
		return Reply{}, bad("name %q: %w", name, err)
	}
	if err := s.enter(); err != nil {
		return Reply{}, err
	}
	defer s.leave()
	if !s.Enabled() {
		return Reply{}, ErrDisabled
	}
	a, err := newLookup(clean, t)
	if err != nil {
		return Reply{}, err
	}
	if e := s.self(s.setup.Load(), a.query); e != nil {
		return e.reply(time.Now().UnixNano(), FromSelf), nil
	}
	e, src, err := s.resolve(ctx, clean, a)
	if err != nil {
		return Reply{}, err
	}
	return e.reply(time.Now().UnixNano(), src), e.err
}

// CacheEntry is an answer in the cache.
type CacheEntry struct {
	Name   string
	Type   Type
	Answer Answer
	// Left is how long it lives; less than 0 is kept only for when no server answers.
	Left time.Duration
	// DNSSEC and CheckingDisabled tell answers to questions with these bits (DO and CD), which are kept apart.
	DNSSEC, CheckingDisabled bool
}

// Cache lists what is in the cache, by name.
func (s *Server) Cache() []CacheEntry {
	now := time.Now().UnixNano()
	entries := s.cache.entries()
	list := make([]CacheEntry, len(entries))
	for i, e := range entries {
		qtype, do, cd := splitKey(e.key)
		list[i] = CacheEntry{Name: e.name, Type: qtype, Answer: e.answer, Left: e.life - e.age(now), DNSSEC: do, CheckingDisabled: cd}
	}
	slices.SortFunc(list, func(a, b CacheEntry) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return int(a.Type) - int(b.Type)
	})
	return list
}

// Flush empties the cache and returns how many answers it had. What is being asked just now is not kept, either.
func (s *Server) Flush() int { return s.cache.flush(nil) }

// FlushDomain forgets a name and all below it, and returns how many answers that were. An error wraps ErrConfig.
func (s *Server) FlushDomain(domain string) (int, error) {
	d, err := canonical(domain)
	if err != nil {
		return 0, bad("name %q: %w", domain, err)
	}
	return s.cache.flush(func(e *entry) bool { return within(e.name, d) }), nil
}

// Upstreams tells how the servers do, in the order of the settings, each once.
func (s *Server) Upstreams() []UpstreamStatus {
	st := s.setup.Load()
	var list []UpstreamStatus
	seen := map[Upstream]bool{}
	add := func(us []Upstream) {
		for _, u := range us {
			if !seen[u] {
				seen[u] = true
				list = append(list, st.servers[u].status())
			}
		}
	}
	add(st.Upstreams)
	for _, r := range st.Routes {
		add(r.Upstreams)
	}
	return list
}

// listenState says that an address cannot be listened on.
func (s *Server) listenState(addr netip.AddrPort, err error) {
	if s.cfg.States == nil {
		return
	}
	s.cfg.States.Update(module.State{
		ID: stateListen, Name: "Nameserver cannot listen", Severity: module.Error,
		Message: fmt.Sprintf("%v. Another nameserver may have %v: stop it, or have this one listen elsewhere.", err, addr),
	})
}

// readers is how many goroutines read a UDP socket: while one works, another reads.
func readers() int { return max(2, runtime.GOMAXPROCS(0)) }
