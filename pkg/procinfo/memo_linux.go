package procinfo

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// lasting is how long an answer is believed that cannot be confirmed cheaply:
// that nobody shares a socket or a port, and what may change in a process
// without an exec.
const lasting = time.Second

// believed returns until when the outcome of a search is believed: the longer
// it took the longer, so that searching stays a small part of what this machine
// does, whatever the number of processes.
func believed(cost time.Duration) int64 {
	const share = 50
	return time.Now().Add(max(lasting, share*cost)).UnixNano()
}

// memo remembers about sockets, a fixed number of them: a newer one takes the
// place of an older one. What it says about owners is a hint to be checked.
type memo struct {
	// mu guards both tables.
	mu    sync.Mutex
	socks [1024]memoSock
	ports [256]memoPort
}

// memoSock is what was found for the socket with an inode.
type memoSock struct {
	inode uint32
	// pid is the owner, or else a holder, and fd its descriptor.
	pid, fd int32
	// stamp is the newest task when all processes were last searched for other
	// holders, and until how long their absence is believed; 0 for never.
	stamp int32
	until int64
	// err is the outcome if there is no single owner, believed as long.
	err *UnknownError
}

// memoPort tells that a socket, by cookie, has no rival for a use.
type memoPort struct {
	cookie uint64
	until  int64
	use    portUse
	// local is the address of this host that was asked for: on another one the
	// socket may have a rival.
	local netip.Addr
}

// portUse is what a socket has no rival for.
type portUse uint8

const (
	receiving portUse = iota
	sending
	// sendingAsUser is sending packets that tell the socket's user.
	sendingAsUser
)

func useOf(info *packet.Info, dir packet.Direction) portUse {
	switch {
	case dir == packet.Inbound:
		return receiving
	case info.HasUID:
		return sendingAsUser
	}
	return sending
}

func (m *memo) sock(inode uint32) (memoSock, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.socks[inode%uint32(len(m.socks))]
	if e.inode != inode || inode == 0 {
		return memoSock{}, false
	}
	return e, true
}

func (m *memo) setSock(e memoSock) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.socks[e.inode%uint32(len(m.socks))] = e
}

func (m *memo) alone(cookie uint64, use portUse, local netip.Addr) bool {
	now := time.Now().UnixNano()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &m.ports[cookie%uint64(len(m.ports))]
	return e.cookie == cookie && cookie != 0 && e.use == use && e.local == local && now < e.until
}

func (m *memo) setAlone(cookie uint64, use portUse, local netip.Addr) {
	until := believed(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[cookie%uint64(len(m.ports))] = memoPort{cookie: cookie, until: until, use: use, local: local}
}
