package nfq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/intercept"
)

const (
	// eventBuffer holds some 10,000 ended connections.
	eventBuffer = 8 << 20
	// eventSize is more than the kernel tells of one.
	eventSize = 4 << 10
	// lossPause is how often losses are told at most.
	lossPause = time.Minute
)

// trafficReporter tells a handler which connections ended. The kernel sends it those that have a mark: all that have a verdict of
// ours, and those of other software's marks, since ours may be on them as a label. Entries that we deleted ourselves ended
// nothing: their connections go on and are asked about again; only what they counted is told.
//
// Connections that are older than the kernel's first listener to such events may end without one.
type trafficReporter struct {
	to      intercept.Traffic
	tracker *tracker
	log     *slog.Logger
	events  *os.File
	locals  *locals
	views   [2]intercept.Usage // reused
	lost    *atomic.Uint64     // overflows of the socket
	toldAt  time.Time          // of losses
}

// openReporter listens from now on.
func openReporter(to intercept.Traffic, t *tracker, lost *atomic.Uint64, log *slog.Logger) (*trafficReporter, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("listen to conntrack: %w", err)
	}
	r := &trafficReporter{to: to, tracker: t, lost: lost, log: log, events: os.NewFile(uintptr(fd), "conntrack events")}
	// The filter comes before the group, or the socket would hold what it should not.
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, markedOnly()),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_CONNTRACK_DESTROY),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to conntrack: %w", err), r.events.Close())
	}
	if r.locals, err = openLocals(); err != nil {
		return nil, errors.Join(err, r.events.Close())
	}
	if b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_events"); err == nil && strings.TrimSpace(string(b)) == "0" {
		log.Warn("the end of connections is not noticed: conntrack events are switched off",
			"remedy", "sysctl net.netfilter.nf_conntrack_events=1")
	}
	return r, nil
}

// followCloses joins or leaves the group of messages about changes. The filter passes those of TCP connections that are over.
func (r *trafficReporter) followCloses(how Closes) error {
	option := unix.NETLINK_DROP_MEMBERSHIP
	if how == ClosesAtOnce {
		option = unix.NETLINK_ADD_MEMBERSHIP
	}
	raw, err := r.events.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, unix.NFNLGRP_CONNTRACK_UPDATE)
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		return fmt.Errorf("listen to changes of conntrack: %w", err)
	}
	return nil
}

func (r *trafficReporter) close() error {
	err := r.events.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, r.locals.routes.close())
}

// markedOnly lets events pass whose connection has a mark other than 0: of a host's many connections, few.
func markedOnly() *unix.SockFprog {
	const (
		findAttribute = 0xfffff000 + 12 // SKF_AD_OFF + SKF_AD_NLATTR
		findNested    = 0xfffff000 + 16 // SKF_AD_OFF + SKF_AD_NLATTR_NEST
		load, index   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_MISC | unix.BPF_TAX
	)
	program := []unix.SockFilter{
		// The end of an entry, of whatever protocol: on to the mark. The message's type is in the machine's order, and loads swap.
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(swap16(subsysConntrack<<8 | ctMsgDelete)), Jt: 14},
		// A change: TCP's state, which is in the protocol's part.
		{Code: unix.BPF_LD | unix.BPF_IMM, K: queueHeader},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: ctProtoInfo},
		{Code: load, K: findAttribute},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 18},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: ctInfoTCP},
		{Code: load, K: findNested},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 15},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: ctTCPState},
		{Code: load, K: findNested},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 12},
		{Code: index},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: attrHeader},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: ctTCPTimeWait, Jf: 9},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: ctTCPClose, Jt: 8},
		// The mark.
		{Code: unix.BPF_LD | unix.BPF_IMM, K: queueHeader},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: ctMark},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: findAttribute},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 4},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: attrHeader},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}

// swap16 returns a number as a filter's load gives it, which takes bytes in network order.
func swap16(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}

// run reports until ctx is done.
func (r *trafficReporter) run(ctx context.Context) error {
	raw, err := r.events.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen to conntrack: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = r.events.Close() //nolint:errcheck // wakes the reader; close says the rest
	})
	defer stop()
	b := make([]byte, eventSize)
	var broken error
	err = raw.Read(func(fd uintptr) bool {
		broken = r.drain(int(fd), b)
		return broken != nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listen to conntrack: %w", errors.Join(broken, err))
}

// drain reports what is there.
func (r *trafficReporter) drain(fd int, b []byte) error {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == nil:
			r.event(b[:n], time.Now())
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			r.overflow(time.Now())
		default:
			return err //nolint:wrapcheck // the caller says what it was about
		}
	}
}

// overflow is told by the kernel once for all that was lost until the buffer was empty again. Whoever keeps a list of connections
// has to have a time after which silence counts as the end, too.
func (r *trafficReporter) overflow(now time.Time) {
	lost := r.lost.Add(1)
	if now.Sub(r.toldAt) < lossPause {
		return
	}
	r.log.Warn("the kernel lost reports about ended connections", "times", lost)
	r.toldAt = now
}

// event reports one message.
func (r *trafficReporter) event(b []byte, now time.Time) {
	var f flow
	if len(b) < queueHeader || !parseFlow(b[queueHeader:], &f) {
		return
	}
	kind := intercept.UsageLastSum
	switch binary.NativeEndian.Uint16(b[4:]) {
	case subsysConntrack<<8 | ctMsgDelete:
	case subsysConntrack<<8 | ctMsgNew:
		if !f.closed() {
			return
		}
		kind = intercept.UsageSum
		// Messages about changes have no figures, and the entry goes only minutes later, when nobody asks for them any more.
		if whole, err := r.tracker.get(f.orig); err == nil && whole.closed() {
			f.sent, f.received = whole.sent, whole.received
		}
	default:
		return
	}
	views := r.views[:0]
	out, in := r.sides(&f, now)
	if out {
		views = append(views, intercept.Usage{Tuple: f.outbound(), ReceivedBytes: f.received, SentBytes: f.sent, Kind: kind})
	}
	if in {
		views = append(views, intercept.Usage{Tuple: f.inbound(), ReceivedBytes: f.sent, SentBytes: f.received, Kind: kind})
	}
	if len(views) > 0 && f.sent|f.received != 0 {
		r.to.ReportUsage(views)
	}
	port := binary.NativeEndian.Uint32(b[12:])
	if port != 0 && (port == r.tracker.one.port || port == r.tracker.all.port) {
		return // our own doing: the connection goes on
	}
	for _, v := range views {
		r.to.ReportEnd(intercept.End{Tuple: v.Tuple, At: now})
	}
}

// sides says which ends of a connection are this host: over loopback both are. What is forwarded has none.
func (r *trafficReporter) sides(f *flow, now time.Time) (out, in bool) {
	from, to := f.orig.src.Addr(), f.reply.src.Addr()
	out, in = r.locals.has(from), r.locals.has(to)
	if out || in {
		return out, in
	}
	if r.locals.refresh(now) {
		out, in = r.locals.has(from), r.locals.has(to)
	}
	if !out && !in && r.tracker.marks.ours(f.mark) {
		return true, true // the address has gone with its interface: one of the two is known to the handler
	}
	return out, in
}

// locals are the addresses that this host has or has had.
type locals struct {
	routes *nlSocket
	addrs  map[netip.Addr]struct{}
	asked  time.Time
}

// localsPause bounds how often strangers make us look again.
const localsPause = time.Second

func openLocals() (*locals, error) {
	routes, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	l := &locals{routes: routes, addrs: map[netip.Addr]struct{}{}}
	l.refresh(time.Now())
	return l, nil
}

func (l *locals) has(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() { // unspecified: DHCP
		return true
	}
	_, ok := l.addrs[a]
	return ok
}

// refresh adds what the host has now. It reports whether it looked.
func (l *locals) refresh(now time.Time) bool {
	if now.Sub(l.asked) < localsPause {
		return false
	}
	l.asked = now
	err := l.routes.request(func(b []byte) []byte {
		b = append(b, make([]byte, nlmsgHeader+unix.SizeofIfAddrmsg)...)
		binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETADDR)
		binary.NativeEndian.PutUint16(b[6:], nlmFlagRequest|nlmFlagDump)
		return b
	}, func(b []byte) {
		if len(b) >= unix.SizeofIfAddrmsg {
			l.add(b[unix.SizeofIfAddrmsg:])
		}
	})
	return err == nil
}

func (l *locals) add(b []byte) {
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		if typ != unix.IFA_LOCAL && typ != unix.IFA_ADDRESS {
			continue
		}
		if a, ok := netip.AddrFromSlice(v); ok {
			l.addrs[a] = struct{}{}
		}
	}
}
