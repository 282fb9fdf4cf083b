package testnet

import (
	"net/netip"
	"sync"

	"github.com/weirfw/weir/internal/testutil"
)

// Direction of a packet as the sniffing host sees it.
type Direction int

// Directions. On lo every packet is seen twice, once in each.
const (
	AnyDirection Direction = iota
	Incoming
	Outgoing
)

// Filter chooses packets; the zero value is all IPv4 and IPv6 packets. A field that is not zero must match.
type Filter struct {
	Proto            uint8        // IP protocol number; in IPv6 only where no extension header stands before it
	Src, Dst         netip.Prefix // either one restricts the filter to its address family
	SrcPort, DstPort uint16       // of TCP and UDP; later fragments do not match
	Direction        Direction
}

// Sniffer counts packets on one interface, exactly: the kernel counts those that match, whether or not there is room to keep
// them. Packets that the network card would cut (segmentation offload) count as one.
type Sniffer struct {
	mu    sync.Mutex // guards all below
	fd    int        // -1: closed
	total uint64
	kept  [][]byte
}

// maxKept bounds what Packets returns.
const maxKept = 64

// Sniff counts packets on an interface of the host from now until the end of the test.
func (h *Host) Sniff(t testutil.TB, iface string, f Filter) *Sniffer {
	t.Helper()
	s := &Sniffer{fd: -1}
	err := h.Do(func() (err error) {
		s.fd, err = openSniffer(iface, f)
		return err
	})
	if err != nil {
		t.Fatalf("on %s: sniff %s: %v", h.name, iface, err)
	}
	t.Cleanup(s.Close)
	return s
}

// Count is the number of matching packets so far.
func (s *Sniffer) Count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainLocked()
	return s.total
}

// Packets returns some of the first matching packets, from the IP header on: what to look at when Count surprises.
func (s *Sniffer) Packets() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainLocked()
	return s.kept
}

// Close ends the counting. Count and Packets keep their values. The end of the test closes too.
func (s *Sniffer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainLocked()
	if s.fd >= 0 {
		closeSocket(s.fd)
		s.fd = -1
	}
}

func (s *Sniffer) drainLocked() {
	if s.fd < 0 {
		return
	}
	buf := make([]byte, 2048)
	for {
		n, ok := snifferRead(s.fd, buf)
		if !ok {
			break
		}
		if len(s.kept) < maxKept {
			s.kept = append(s.kept, append([]byte(nil), buf[:n]...))
		}
	}
	// Reading the kernel's counter resets it.
	if n, err := snifferCount(s.fd); err == nil {
		s.total += n
	}
}
