package firewall

import (
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// closingTime is how long a TCP connection stays after its last closing
// segment: retransmissions and the last acknowledgement still belong to it.
const closingTime = 10 * time.Second

// closingTable holds TCP connections of which a FIN or RST was seen. It notices
// the end of connections whose every packet user space sees; that of others is
// reported by the source. Connections whose reported end is in doubt are here
// too.
type closingTable struct {
	mu sync.Mutex // guards m
	m  map[*conn.Conn]closingState
}

type closingState struct {
	// finished is a bit for each direction that sent its FIN; a RST sets both.
	finished uint8
	// doubtful: an end was reported, maybe of another connection.
	doubtful bool
	last     time.Time
}

const bothFinished = 1<<packet.Inbound | 1<<packet.Outbound

// saw notes a segment with FIN or RST. It reports whether both sides have closed.
func (t *closingTable) saw(c *conn.Conn, i *packet.Info) bool {
	bits := uint8(1) << i.Direction
	if i.TCPFlags&packet.TCPRst != 0 {
		bits = bothFinished
	}
	return t.note(c, closingState{finished: bits, last: i.Seen}).finished == bothFinished
}

// doubt notes a reported end that may be another connection's.
func (t *closingTable) doubt(c *conn.Conn, at time.Time) {
	t.note(c, closingState{doubtful: true, last: at})
}

func (t *closingTable) note(c *conn.Conn, s closingState) closingState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[*conn.Conn]closingState)
	}
	old := t.m[c]
	s.finished |= old.finished
	s.doubtful = s.doubtful || old.doubtful
	t.m[c] = s
	return s
}

// closed is a connection that is over, for all we know.
type closed struct {
	conn *conn.Conn
	// doubtful: there was a report, but no closing segments.
	doubtful bool
}

// prune returns the connections that are over by now, and forgets them. Some have left the store already. Undecided ones have not
// begun.
func (t *closingTable) prune(now time.Time) []closed {
	t.mu.Lock()
	defer t.mu.Unlock()
	var over []closed
	for c, s := range t.m {
		state := c.State()
		switch finished := s.finished == bothFinished; {
		case state.Verdict() == verdict.Undecided && state.Live() || now.Sub(s.last) <= closingTime:
		case finished || s.doubtful || !state.Live():
			delete(t.m, c)
			over = append(over, closed{c, !finished})
		}
	}
	return over
}
