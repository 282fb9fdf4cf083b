package nfq

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

// tracker changes what the kernel remembers about connections. Its methods may be called from any goroutine. None of them waits:
// each is as long as the kernel needs, which for those about all connections is some 8 µs a connection that is tracked; those
// have a socket of their own, so that verdicts do not queue up behind them.
type tracker struct {
	marks    Marks
	one, all *nlSocket
}

// openTracker returns an error that wraps ErrNoKernelSupport if the kernel cannot be asked.
func openTracker(m Marks) (*tracker, error) {
	t := &tracker{marks: m}
	var err, err2 error
	t.one, err = openNetlink(unix.NETLINK_NETFILTER)
	t.all, err2 = openNetlink(unix.NETLINK_NETFILTER)
	if err := errors.Join(err, err2); err != nil {
		return nil, errors.Join(err, t.close())
	}
	nowhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	nobody := flowOf(packet.Tuple{Local: nowhere, Remote: nowhere, Protocol: packet.UDP}, packet.Outbound)
	if _, err := t.get(nobody.orig); !errors.Is(err, unix.ENOENT) {
		err = &HostError{
			Kind: ErrNoKernelSupport, What: "connection tracking over netlink (NF_CT_NETLINK)", Err: err,
			Remedy: "load the module nf_conntrack_netlink",
		}
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// close may be called twice, and on nil. What is called later returns ErrClosed.
func (t *tracker) close() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, s := range []*nlSocket{t.one, t.all} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

// get returns the entry that has packets of a direction, either of its two.
func (t *tracker) get(dir flowTuple) (flow, error) {
	var found flow
	ok := false
	err := t.one.request(func(b []byte) []byte {
		b = appendConntrackHeader(b, ctMsgGet, nlmFlagAck, dir.nfFamily(), 0)
		return appendFlowTuple(b, ctTupleOrig, dir)
	}, func(b []byte) {
		if len(b) > nfgenmsg {
			ok = parseFlow(b[nfgenmsg:], &found)
		}
	})
	if err == nil && !ok {
		err = errNoAnswer
	}
	return found, err
}

// nfgenmsg is the size of the header behind netlink's.
const nfgenmsg = queueHeader - nlmsgHeader

// find returns the kernel's entry. The kernel looks at both directions of an entry, but only as long as no address was
// translated; so both ways are asked. The error wraps unix.ENOENT if there is none.
func (t *tracker) find(c packet.Tuple) (flow, error) {
	var err error
	for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
		if c.Protocol.IsICMP() && asked(c) != dir {
			continue // a ping out and a ping in with the same number are two connections
		}
		q := flowOf(c, dir)
		var found flow
		if found, err = t.get(q.orig); err == nil {
			return found, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	return flow{}, fmt.Errorf("find connection %v: %w", c, err)
}

// asked returns the direction of an echo's request.
func asked(c packet.Tuple) packet.Direction {
	if c.Remote.Port() != 0 {
		return packet.Inbound
	}
	return packet.Outbound
}

// origin says who opened a connection that has an entry. A first packet has none until all of the firewall let it pass. An entry
// that began in the middle of a connection tells who spoke first from then on, which says nothing.
func (t *tracker) origin(c packet.Tuple) (packet.Direction, bool) {
	f, err := t.find(c)
	switch {
	case err != nil || f.midway:
		return packet.Outbound, false
	case f.outbound() == c:
		return packet.Outbound, true
	}
	return packet.Inbound, true
}

// measure says what the kernel has counted, as this host sees it.
func (t *tracker) measure(c packet.Tuple) (m intercept.Measure, found bool, err error) {
	f, err := t.find(c)
	switch {
	case errors.Is(err, unix.ENOENT):
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	m = intercept.Measure{
		ReceivedBytes: f.received, SentBytes: f.sent, Left: time.Duration(f.left) * time.Second,
		Closed: c.Protocol == packet.TCP && f.closed(),
	}
	if f.outbound() != c {
		m.ReceivedBytes, m.SentBytes = f.sent, f.received
	}
	return m, true, nil
}

// delete removes an entry; one that is gone already is fine.
func (t *tracker) delete(f *flow) error {
	err := t.one.request(func(b []byte) []byte {
		b = appendConntrackHeader(b, ctMsgDelete, nlmFlagAck, f.orig.nfFamily(), 0)
		b = appendFlow(b, f)
		return appendUint32(b, ctID, f.id) // this very one, not a later one between the same ends
	}, nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete connection: %w", err)
	}
	return nil
}

// forget makes the kernel ask again about the next packet. Entries that hold no verdict of ours stay: they may be what keeps
// somebody's address translation.
func (t *tracker) forget(c packet.Tuple) error {
	f, err := t.find(c)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case t.marks.ours(f.mark) || f.labelled():
		return t.delete(&f)
	}
	return nil
}

// forgetAll makes the kernel ask again wherever it has a verdict of ours: 1709, refusals and labels. Entries stay, since they are
// all that still tells who opened a connection: without, its next packet would be taken for its first.
func (t *tracker) forgetAll() error {
	return t.forgetListed(nil)
}

// forgetMarks is forgetAll for a host where no connection can have a label of ours, because earlier processes ended as they should.
// The kernel chooses the entries itself, which costs next to nothing where there are none.
func (t *tracker) forgetMarks() error {
	value, mask := t.marks.block()
	return t.forgetListed(func(b []byte) []byte {
		return appendUint32(appendUint32(b, ctMark, value), ctMarkMask, mask)
	})
}

// forgetListed forgets the verdicts in a list, of all entries if filter is nil.
func (t *tracker) forgetListed(filter func(b []byte) []byte) error {
	var judged []flow
	var f flow
	err := t.all.request(func(b []byte) []byte {
		b = appendConntrackHeader(b, ctMsgGet, nlmFlagDump, unix.AF_UNSPEC, 0)
		if filter != nil {
			b = filter(b)
		}
		return b
	}, func(b []byte) {
		if len(b) > nfgenmsg && parseFlow(b[nfgenmsg:], &f) && (t.marks.ours(f.mark) || f.labelled()) {
			judged = append(judged, f)
		}
	})
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	var errs []error
	for i := range judged {
		errs = append(errs, t.clear(&judged[i]))
	}
	return errors.Join(errs...)
}

// neverBegan reports whether an entry only remembers a refusal. Its connection has passed no nat, and would not if the entry
// stayed: what allows it after all has to delete the entry, or it goes where it would without the host's DNAT and MASQUERADE.
func (t *tracker) neverBegan(f *flow) bool {
	return (f.mark == t.marks.BlockAlways || f.mark == t.marks.DropAlways) && !f.replied
}

// clear takes our mark and label off an entry. Some have to go altogether: those with an address translation of ours, and those
// of connections that never began.
func (t *tracker) clear(f *flow) error {
	if t.marks.redirects(f.mark) || t.neverBegan(f) {
		return t.delete(f)
	}
	err := t.change(f, func(b []byte) []byte {
		if t.marks.ours(f.mark) {
			b = appendUint32(b, ctMark, 0)
		}
		return appendUnlabel(b, f)
	})
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	// Better an unknown origin than a verdict that nobody knows of.
	if gone := t.delete(f); gone != nil {
		return errors.Join(fmt.Errorf("clear the mark of a connection: %w", err), gone)
	}
	return nil
}

// nlmFlagDump asks for a list, nlmFlagCreate and nlmFlagExcl for something new (netlink.h).
const (
	nlmFlagDump   = 0x300
	nlmFlagCreate = 0x400
	nlmFlagExcl   = 0x200
)

// update makes the kernel treat a connection by mark from now on. A mark that holds for packets only makes it ask again. An
// entry whose way changes, or has yet to be found, is deleted, because an established connection does not pass nat again.
func (t *tracker) update(c packet.Tuple, mark uint32) error {
	accepts := mark == t.marks.AcceptAlways || mark == t.marks.AcceptFinal
	if !t.marks.permanent(mark) || accepts && isLoopback(c) {
		return t.forget(c)
	}
	f, err := t.find(c)
	if errors.Is(err, unix.ENOENT) {
		return nil // then the next packet is a first one
	}
	if err != nil {
		return err
	}
	switch {
	case f.mark == mark && !f.labelled():
		return nil
	case t.marks.redirects(mark), t.marks.redirects(f.mark), accepts && t.neverBegan(&f):
		return t.delete(&f)
	case accepts && f.mark != 0 && !t.marks.ours(f.mark):
		return t.label(&f)
	}
	if err := t.setMark(&f, mark); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mark connection %v: %w", c, err)
	}
	return nil
}

// setMark gives an entry a mark in place of our label.
func (t *tracker) setMark(f *flow, mark uint32) error {
	return t.change(f, func(b []byte) []byte { return appendUnlabel(appendUint32(b, ctMark, mark), f) })
}

// appendUnlabel takes our label off an entry that has it.
func appendUnlabel(b []byte, f *flow) []byte {
	if !f.labelled() {
		return b
	}
	b = appendAttr(b, ctLabels, make([]byte, labelBytesSize)...)
	return appendAttr(b, ctLabelsMask, labelBytes(judgedLabel)...)
}

// change sets attributes of an entry that exists.
func (t *tracker) change(f *flow, set func(b []byte) []byte) error {
	return t.one.request(func(b []byte) []byte {
		b = appendConntrackHeader(b, ctMsgNew, nlmFlagAck, f.orig.nfFamily(), 0)
		return set(appendFlow(b, f))
	}, nil)
}

// setLabel accepts a connection for good and leaves its mark to whom it belongs.
func (t *tracker) setLabel(c packet.Tuple) error {
	f, err := t.find(c)
	if err != nil {
		return err
	}
	return t.label(&f)
}

func (t *tracker) label(f *flow) error {
	label := labelBytes(judgedLabel)
	err := t.change(f, func(b []byte) []byte {
		return appendAttr(appendAttr(b, ctLabels, label...), ctLabelsMask, label...)
	})
	if errors.Is(err, unix.ENOSPC) {
		// Older than our rules, it has no room for labels. The entry that its next packet makes will have.
		return t.delete(f)
	}
	if err != nil {
		return fmt.Errorf("label connection: %w", err)
	}
	return nil
}

// Conntrack states of TCP (nf_conntrack_tcp.h).
const (
	tcpSynSent     = 1
	tcpEstablished = 3
)

// rememberFor is how long a refused connection stays refused without being asked about, in seconds. Every packet renews it.
const rememberFor = 30

// remember makes an entry for a connection whose first packet is refused: the packet itself leaves none, so every retry would
// be asked about.
func (t *tracker) remember(c packet.Tuple, dir packet.Direction, mark uint32, tcpFlags uint8) error {
	if c.Protocol.IsICMP() && asked(c) != dir {
		return nil // a reply without a request: conntrack would not take it either
	}
	f := flowOf(c, dir)
	err := t.one.request(func(b []byte) []byte {
		b = appendConntrackHeader(b, ctMsgNew, nlmFlagAck|nlmFlagCreate|nlmFlagExcl, f.orig.nfFamily(), 0)
		b = appendFlow(b, &f)
		b = appendUint32(b, ctTimeout, rememberFor)
		b = appendUint32(b, ctMark, mark)
		if c.Protocol == packet.TCP {
			b = appendTCPState(b, tcpFlags)
		}
		return b
	}, nil)
	if errors.Is(err, unix.EEXIST) {
		return t.update(c, mark)
	}
	if err != nil {
		return fmt.Errorf("remember %v: %w", c, err)
	}
	return nil
}

func appendTCPState(b []byte, tcpFlags uint8) []byte {
	state := uint8(tcpSynSent)
	if tcpFlags&(packet.TCPSyn|packet.TCPAck|packet.TCPRst) != packet.TCPSyn {
		state = tcpEstablished // seen in the middle
	}
	outer := len(b)
	b = appendNest(b, ctProtoInfo)
	inner := len(b)
	b = appendNest(b, ctInfoTCP)
	b = appendAttr(b, ctTCPState, state)
	b = appendAttr(b, ctTCPFlagsOrig, tcpLiberal, tcpLiberal) // flags, then their mask
	b = appendAttr(b, ctTCPFlagsReply, tcpLiberal, tcpLiberal)
	closeNest(b, inner)
	closeNest(b, outer)
	return b
}

// permanent reports whether mark holds for a connection.
func (m Marks) permanent(mark uint32) bool {
	switch mark {
	case m.AcceptFinal, m.AcceptAlways, m.BlockAlways, m.DropAlways:
		return true
	}
	return m.redirects(mark)
}

// redirects reports whether mark changes where a connection goes.
func (m Marks) redirects(mark uint32) bool {
	return mark == m.Tunnel || mark == m.Nameserver || mark >= m.SplitTun && mark <= m.SplitTun+MaxRoute
}
