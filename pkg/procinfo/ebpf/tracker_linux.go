//go:build amd64 || arm64 || 386

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/pkg/appid"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
)

// Flags of attr.bpf.c.
const (
	flagShared = 1 << 0
	flagClosed = 1 << 1
	flagSeeded = 1 << 3
)

// Tracker knows the owners of connections. Its methods may be called from any goroutine.
type Tracker struct {
	cfg    Config
	log    *slog.Logger
	status Status

	maps     map[string]*ebpf.Map
	attached []closer
	cgroups  *cgroupNames
	apps     appid.Identifier
	seeders  seeders

	describe atomic.Pointer[func(pid int) (*conn.Process, error)]
	known    knownTable
	asked    questions
	// tuples is the descriptor of the map that connections are looked up in.
	tuples int
	host   *hostfile.View

	// life is held for reading by lookups: Close waits for them.
	life   sync.RWMutex
	closed bool

	counters struct{ lookups, found, cached, ended, shared, forgotten, events atomic.Uint64 }
}

var (
	_ procinfo.SocketOwner = (*Tracker)(nil)
	_ procinfo.QuickOwner  = (*Tracker)(nil)
)

// lasting is how long a description of a living process is used again: its command line, say, may change without the kernel telling.
const lasting = time.Second

// image names what a process was when it used a connection.
type image struct {
	start, exec, cgroup uint64
	tgid, pid, uid      uint32
}

// knownTable remembers descriptions.
type knownTable struct {
	mu sync.RWMutex // guards m
	m  map[image]known
}

type known struct {
	process *conn.Process
	until   int64 // nanoseconds of the Unix epoch
}

// maxKnown bounds a knownTable; when it is full it begins anew.
const maxKnown = 4096

func (k *knownTable) get(i image, now int64) *conn.Process {
	k.mu.RLock()
	e := k.m[i]
	k.mu.RUnlock()
	if now >= e.until {
		return nil
	}
	return e.process
}

func (k *knownTable) put(i image, e known) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || len(k.m) >= maxKnown {
		k.m = make(map[image]known)
	}
	k.m[i] = e
}

// DescribeBy sets what describes living processes; procinfo.New does it. Without, only what the kernel told is known of them.
func (t *Tracker) DescribeBy(describe func(pid int) (*conn.Process, error)) {
	t.describe.Store(&describe)
}

// Method returns procinfo.MethodEBPF.
func (t *Tracker) Method() procinfo.Method { return procinfo.MethodEBPF }

// Status says what works.
func (t *Tracker) Status() Status { return t.status }

// Stats returns what was counted since New.
func (t *Tracker) Stats() Stats {
	c := &t.counters
	s := Stats{
		Lookups: c.lookups.Load(), Found: c.found.Load(), Cached: c.cached.Load(), Ended: c.ended.Load(), Shared: c.shared.Load(),
		Forgotten: c.forgotten.Load(), Events: c.events.Load(),
	}
	t.life.RLock()
	defer t.life.RUnlock()
	if !t.closed {
		for i, n := range []*uint64{&s.Uncounted, &s.LostEvents} {
			_ = t.maps[attrMapLosses].Lookup(uint32(i), n) // figures for people
		}
	}
	return s
}

// Owner says which process made or uses an outbound connection. The error is an *procinfo.UnknownError if that is not known, as it
// never is of inbound ones.
func (t *Tracker) Owner(_ context.Context, info *packet.Info, direction packet.Direction) (procinfo.Owner, error) {
	if direction != packet.Outbound {
		return procinfo.Owner{}, unknown(procinfo.ReasonNoSocket)
	}
	return t.ask(info, own, thorough)
}

// OwnerQuick is Owner for threads that must not be held up: it answers in a microsecond or two, about processes that it has
// described lately.
func (t *Tracker) OwnerQuick(info *packet.Info, direction packet.Direction) (procinfo.Owner, error) {
	if direction != packet.Outbound || !t.life.TryRLock() {
		return procinfo.Owner{}, unknown(procinfo.ReasonNoSocket)
	}
	t.life.RUnlock()
	return t.ask(info, own, quick)
}

// Forwarded says which process of another network namespace on this host sent a packet that is on its way through ours: info is as
// for any packet that comes in, with the sender's address as Remote.
func (t *Tracker) Forwarded(_ context.Context, info *packet.Info) (procinfo.Owner, error) {
	sent := &packet.Info{Tuple: info.Reverse()}
	return t.ask(sent, foreign, thorough)
}

// whose tells our network namespace from the others.
type whose uint8

const (
	own     whose = 0
	foreign whose = 1
)

// effort is how much a lookup may do.
type effort uint8

const (
	thorough effort = iota
	quick
)

func (t *Tracker) ask(info *packet.Info, w whose, e effort) (procinfo.Owner, error) {
	t.life.RLock()
	defer t.life.RUnlock()
	if t.closed {
		return procinfo.Owner{}, procinfo.ErrClosed
	}
	t.counters.lookups.Add(1)
	q := t.asked.get()
	defer t.asked.put(q)
	if reason := t.lookUp(info, w, q); reason != 0 {
		if reason == procinfo.ReasonSeveral {
			t.counters.shared.Add(1)
		}
		return procinfo.Owner{}, unknown(reason)
	}
	p, err := t.process(&q.owner, e)
	if err != nil {
		return procinfo.Owner{}, err
	}
	t.counters.found.Add(1)
	return procinfo.Owner{PID: p.PID, StartTicks: p.StartTicks, Process: p}, nil
}

// lookUp finds the note about a connection, which q.owner is then; else it returns why there is none.
func (t *Tracker) lookUp(info *packet.Info, w whose, q *question) procinfo.Reason {
	q.key = keyOf(info.Tuple, w)
	found := q.ask(t.tuples)
	if info.Protocol == packet.UDP {
		found = t.lookUpDatagram(info, q, found)
	}
	switch {
	case !found:
		return procinfo.ReasonNoSocket
	case q.owner.Flags&flagShared != 0:
		return procinfo.ReasonSeveral
	}
	return 0
}

// lookUpDatagram goes on with what was found under the exact addresses. A socket that sends to many has no source address when it is
// noted, and what an earlier one with the same port left may be there still.
func (t *Tracker) lookUpDatagram(info *packet.Info, q *question, found bool) bool { //nolint:revive // found is what q.owner is
	exact := q.owner
	q.key.Saddr = [4]uint32{}
	switch anywhere := q.ask(t.tuples); {
	case !anywhere && !found:
		return false
	case !anywhere:
		q.owner = exact
	case found:
		q.owner = t.newer(&exact, &q.owner)
	}
	return t.sentAs(info, &q.owner)
}

// newer decides between two notes about one port: a socket that is still there goes before one that is not, then the later use. If both
// are there, neither is known to have sent a packet.
func (t *Tracker) newer(exact, anywhere *attrOwner) attrOwner {
	a, b := t.open(exact.Cookie), t.open(anywhere.Cookie)
	switch {
	case a && b && (exact.Tgid != anywhere.Tgid || exact.Start != anywhere.Start || exact.Exec != anywhere.Exec):
		both := *exact
		both.Flags |= flagShared
		return both
	case a != b && a, a == b && exact.Ts > anywhere.Ts:
		return *exact
	}
	return *anywhere
}

// open reports whether a socket is known, and not closed.
func (t *Tracker) open(cookie uint64) bool {
	var sock attrOwner
	return t.maps[attrMapSocks].Lookup(&cookie, &sock) == nil && sock.Flags&flagClosed == 0
}

// sentAs reports whether a datagram is by the note's user. Packets have that of who made the socket, which may be another than who sends.
func (t *Tracker) sentAs(info *packet.Info, o *attrOwner) bool {
	if !info.HasUID || info.UID == o.Uid {
		return true
	}
	var sock attrOwner
	return t.maps[attrMapSocks].Lookup(&o.Cookie, &sock) == nil && sock.Uid == info.UID
}

// process describes an owner as it was when it used the connection.
func (t *Tracker) process(o *attrOwner, e effort) (*conn.Process, error) {
	if o.Pid == 0 {
		return nil, unknown(procinfo.ReasonNoProcess) // outside our pid namespace
	}
	now := time.Now().UnixNano()
	id := image{o.Start, o.Exec, o.Cgroup, o.Tgid, o.Pid, o.Uid}
	if p := t.known.get(id, now); p != nil && o.Exec != 0 {
		t.counters.cached.Add(1)
		return p, nil
	}
	if e == quick {
		return nil, unknown(procinfo.ReasonGone)
	}
	if p := t.living(o); p != nil {
		if o.Exec != 0 {
			t.known.put(id, known{p, now + int64(lasting)})
		}
		return p, nil
	}
	p := t.remembered(o)
	if p == nil {
		t.counters.forgotten.Add(1)
		return nil, unknown(procinfo.ReasonGone)
	}
	t.counters.ended.Add(1)
	t.known.put(id, known{p, now + int64(lasting)})
	return p, nil
}

// living describes an owner that runs still what it ran then; nil if it does not. The kernel's note is read before and after.
func (t *Tracker) living(o *attrOwner) *conn.Process {
	describe := t.describe.Load()
	if describe == nil || !t.runs(o) {
		return nil
	}
	p, err := (*describe)(int(o.Pid))
	if err != nil || p.StartTicks != ticks(o.Start) || !t.runs(o) {
		return nil
	}
	return p
}

// runs reports whether a process lives and runs the image of the note, as far as the kernel tells of processes at all.
func (t *Tracker) runs(o *attrOwner) bool {
	if o.Exec == 0 {
		return true // the start has to do
	}
	var s attrProcState
	err := t.maps[attrMapProcs].Lookup(&attrProcKey{Start: o.Start, Tgid: o.Tgid}, &s)
	return err == nil && s.Exec == o.Exec && s.Exited == 0
}

// ticks converts a start in nanoseconds since boot to what /proc tells, in units of USER_HZ.
func ticks(start uint64) uint64 {
	const userHz = 100
	return start / (uint64(time.Second) / userHz)
}

// keyOf returns what the kernel's programs note a connection under.
func keyOf(c packet.Tuple, w whose) attrTuple {
	k := attrTuple{Sport: c.Local.Port(), Dport: c.Remote.Port(), Proto: uint8(c.Protocol), Family: unix.AF_INET6, Foreign: uint8(w)}
	if c.Is4() {
		k.Family = unix.AF_INET
	}
	k.Saddr, k.Daddr = words(c.Local.Addr()), words(c.Remote.Addr())
	return k
}

// words returns an address in network order, as the kernel has it in words of the machine.
func words(a netip.Addr) (w [4]uint32) {
	if a.Is4() {
		b := a.As4()
		w[0] = native(b[:])
		return w
	}
	b := a.As16()
	for i := range w {
		w[i] = native(b[4*i:])
	}
	return w
}

// tupleOf is the reverse of keyOf.
func tupleOf(k *attrTuple) packet.Tuple {
	return packet.Tuple{
		Local: netip.AddrPortFrom(address(k.Saddr, k.Family), k.Sport), Remote: netip.AddrPortFrom(address(k.Daddr, k.Family), k.Dport),
		Protocol: packet.Protocol(k.Proto),
	}
}

// Close detaches everything, after the lookups in progress. Closing twice is fine. Run must have ended.
func (t *Tracker) Close() error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return t.detach()
}

func (t *Tracker) detach() error {
	var errs []error
	for _, c := range t.attached {
		errs = append(errs, c.Close())
	}
	for _, m := range t.maps {
		errs = append(errs, m.Close())
	}
	if t.cgroups != nil {
		errs = append(errs, t.cgroups.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ebpf: close: %w", err)
	}
	return nil
}

type closer interface{ Close() error }
