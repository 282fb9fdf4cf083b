package proxy

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams are received at a time, each of up to 64 KiB.
	batchSize  = 32
	datagram   = 64 << 10
	controlLen = 64
	// messages and pieces are how many sends, of how many parts, are prepared at a time.
	messages = 64
	pieces   = 128
	// segmentMost is the largest datagram that is sent together with others of its size (UDP_SEGMENT): larger ones do not fit
	// into the packets of common networks in one piece. segmentTotal bounds what is sent as one.
	segmentMost  = 1472
	segmentTotal = 65000
)

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// segmentControl is the ancillary data that has the kernel cut a message into datagrams.
type segmentControl struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// batch is the memory of a loop for datagrams: those just received, and the messages in which they are sent on. It is used again
// for each batch, and its pointers point into itself and mem.
type batch struct {
	rx   [batchSize]mmsghdr
	iov  [batchSize]unix.Iovec
	name [batchSize]unix.RawSockaddrInet6
	ctl  [batchSize][controlLen / 8]uint64 // aligned for a Cmsghdr
	used int
	mem  []byte

	tx       [messages]mmsghdr
	txIov    [pieces]unix.Iovec
	txCtl    [messages]segmentControl
	txCount  [messages]uint64 // datagrams in a message
	txN, ivN int
}

// outlet is a socket to send datagrams with.
type outlet struct {
	fd      int
	segment bool // several datagrams of a size may be sent as one message
}

func newBatch() (*batch, error) {
	mem, err := unix.Mmap(-1, 0, batchSize*datagram, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map memory for datagrams: %w", err)
	}
	b := &batch{mem: mem, used: batchSize}
	for i := range batchSize {
		b.iov[i].Base = &mem[i*datagram]
		b.iov[i].SetLen(datagram)
		b.rx[i].hdr.Iov = &b.iov[i]
		b.rx[i].hdr.SetIovlen(1)
		b.rx[i].hdr.Control = (*byte)(unsafe.Pointer(&b.ctl[i]))
	}
	for i := range messages {
		b.txCtl[i].hdr.Level = unix.IPPROTO_UDP
		b.txCtl[i].hdr.Type = unix.UDP_SEGMENT
		b.txCtl[i].hdr.SetLen(unix.CmsgLen(2))
	}
	return b, nil
}

func (b *batch) close() error {
	if err := unix.Munmap(b.mem); err != nil {
		return fmt.Errorf("unmap memory for datagrams: %w", err)
	}
	return nil
}

// recv receives what waits, with the senders' names if named.
func (b *batch) recv(fd int, named bool) (int, unix.Errno) { //nolint:revive // a connected socket's peer needs no telling
	for i := range b.used { // the kernel wrote into these
		h := &b.rx[i].hdr
		h.SetControllen(controlLen)
		h.Name, h.Namelen = nil, 0
	}
	if named {
		for i := range b.rx {
			b.rx[i].hdr.Name, b.rx[i].hdr.Namelen = (*byte)(unsafe.Pointer(&b.name[i])), unix.SizeofSockaddrInet6
		}
		b.used = batchSize
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.rx[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	b.used = max(b.used, int(n))
	if !named {
		b.used = int(n)
	}
	return int(n), 0
}

// segmentOf returns the size of the datagrams that message i consists of; 0 if it is one.
func (b *batch) segmentOf(i int) int {
	if b.rx[i].hdr.Controllen < unix.SizeofCmsghdr {
		return 0
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(&b.ctl[i]))
	if c.Level != unix.IPPROTO_UDP || c.Type != unix.UDP_GRO {
		return 0
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0))))
}

// relay sends messages i to j of the batch by out, to the given address unless out is connected. It returns what the kernel took,
// and an error that says that the socket will never send again.
func (l *loop) relay(i, j int, out *outlet, to *sockaddr) (packets, bytes uint64, broken unix.Errno) {
	b := l.batch
	tally := sendTally{loop: l, out: out, to: to}
	for k := i; k < j; {
		size, seg := int(b.rx[k].n), b.segmentOf(k)
		base := &b.mem[k*datagram]
		switch {
		case seg > 0 && size > seg && out.segment:
			tally.room(1)
			b.add(base, size)
			b.finish(to, 1, seg, uint64((size+seg-1)/seg))
			k++
		case seg > 0 && size > seg:
			for o := 0; o < size; o += seg {
				tally.room(1)
				b.add((*byte)(unsafe.Add(unsafe.Pointer(base), o)), min(seg, size-o))
				b.finish(to, 1, 0, 1)
			}
			k++
		default:
			n := 1
			if out.segment {
				n = b.runOf(k, j, size)
			}
			tally.room(n)
			for m := k; m < k+n; m++ {
				b.add(&b.mem[m*datagram], int(b.rx[m].n))
			}
			if n == 1 {
				size = 0
			}
			b.finish(to, n, size, uint64(n))
			k += n
		}
	}
	tally.flush()
	l.stats.udpDropped.Add(tally.dropped)
	return tally.packets, tally.bytes, tally.broken
}

// runOf returns how many messages from k on can be sent as one: all of one size, but for the last, which may be shorter.
func (b *batch) runOf(k, j, size int) int {
	if size == 0 || size > segmentMost {
		return 1
	}
	n, total := 1, size
	for k+n < j && total+size <= segmentTotal {
		next := int(b.rx[k+n].n)
		if next == 0 || next > size || b.segmentOf(k+n) > 0 {
			break
		}
		n++
		total += next
		if next < size {
			break
		}
	}
	return n
}

// add adds a piece to the message being prepared, finish ends it.
func (b *batch) add(p *byte, n int) {
	b.txIov[b.ivN].Base = p
	b.txIov[b.ivN].SetLen(n)
	b.ivN++
}

func (b *batch) finish(to *sockaddr, pieces, segment int, datagrams uint64) {
	h := &b.tx[b.txN].hdr
	*h = unix.Msghdr{Iov: &b.txIov[b.ivN-pieces]}
	h.SetIovlen(pieces)
	if to != nil {
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&to.raw)), to.len
	}
	if segment > 0 {
		c := &b.txCtl[b.txN]
		c.size = uint16(segment)
		h.Control = (*byte)(unsafe.Pointer(c))
		h.SetControllen(unix.CmsgSpace(2))
	}
	b.txCount[b.txN] = datagrams
	b.txN++
}

// sendTally sends prepared messages and counts.
type sendTally struct {
	loop                    *loop
	out                     *outlet
	to                      *sockaddr
	packets, bytes, dropped uint64
	broken                  unix.Errno
}

// room sends what is prepared if there is no room for another message of n pieces.
func (t *sendTally) room(n int) {
	if b := t.loop.batch; b.txN == messages || b.ivN+n > pieces {
		t.flush()
	}
}

func (t *sendTally) flush() {
	b := t.loop.batch
	retried := false
	for o := 0; o < b.txN; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(t.out.fd), uintptr(unsafe.Pointer(&b.tx[o])), uintptr(b.txN-o),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		segmented := b.tx[o].hdr.Controllen > 0
		switch {
		case errno == 0:
			for ; n > 0; n-- {
				t.packets += b.txCount[o]
				t.bytes += uint64(b.tx[o].n)
				o++
			}
			retried = false
		case errno == unix.EINTR:
		case segmented && (errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EIO):
			// The device or the path cannot take segments of this size.
			t.out.segment = false
			t.sendPieces(o)
			o++
		case !retried && isOld(errno):
			t.loop.stats.udpICMP.Add(1)
			retried = true
		default:
			t.lost(b.txCount[o], errno)
			retried = false
			o++
		}
	}
	b.txN, b.ivN = 0, 0
}

// isOld reports whether an error of sending may be about a datagram sent before, as ICMP told it: then the one at hand was not
// sent, and there was nothing wrong with it.
func isOld(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT, unix.EPROTO, unix.EACCES, unix.EOPNOTSUPP:
		return true
	}
	return false
}

func (t *sendTally) lost(datagrams uint64, errno unix.Errno) {
	t.dropped += datagrams
	switch errno {
	case unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.EINVAL:
		// The interface or its address is gone. Others of that name come with another socket.
		t.broken = errno
	}
}

// sendPieces sends message o of the batch as single datagrams.
func (t *sendTally) sendPieces(o int) {
	b := t.loop.batch
	h := b.tx[o].hdr
	seg := int(b.txCtl[o].size)
	for _, v := range unsafe.Slice(h.Iov, h.Iovlen) {
		for p := 0; p < int(v.Len); p += seg {
			size := min(seg, int(v.Len)-p)
			errno := t.sendOne((*byte)(unsafe.Add(unsafe.Pointer(v.Base), p)), size)
			if errno != 0 && isOld(errno) {
				t.loop.stats.udpICMP.Add(1)
				errno = t.sendOne((*byte)(unsafe.Add(unsafe.Pointer(v.Base), p)), size)
			}
			if errno != 0 {
				t.lost(1, errno)
				continue
			}
			t.packets++
			t.bytes += uint64(size)
		}
	}
}

func (t *sendTally) sendOne(p *byte, n int) unix.Errno {
	var errno unix.Errno
	if t.to == nil {
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(t.out.fd), uintptr(unsafe.Pointer(p)), uintptr(n),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	} else {
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(t.out.fd), uintptr(unsafe.Pointer(p)), uintptr(n),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&t.to.raw)), uintptr(t.to.len))
	}
	return errno
}
