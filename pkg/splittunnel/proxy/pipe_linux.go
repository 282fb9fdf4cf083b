package proxy

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is how much one splice may move. Pipes that could not be enlarged (pipe-user-pages-soft) work, only slower.
	pipeSize = 1 << 20
	// pipesKept stay open for the next bulk transfer, pipesMost may be in use in one loop: a pipe whose reader is slow holds
	// memory of the kernel. Sessions beyond that are copied through the buffer.
	pipesKept = 16
	pipesMost = 256
)

// pipe carries spliced data; the zero value is none.
type pipe struct {
	r, w int
	open bool
}

type pipes struct {
	free []pipe
	used int
}

// take returns a pipe, unless too many are in use or there is no descriptor.
func (p *pipes) take() (pipe, bool) {
	if p.used >= pipesMost {
		return pipe{}, false
	}
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		p.used++
		return got, true
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return pipe{}, false
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) //nolint:errcheck // see pipeSize
	p.used++
	return pipe{r: fds[0], w: fds[1], open: true}, true
}

// give takes an empty pipe back.
func (p *pipes) give(one pipe) error {
	if len(p.free) >= pipesKept {
		return p.discard(one)
	}
	p.used--
	p.free = append(p.free, one)
	return nil
}

// discard closes a pipe with what is in it.
func (p *pipes) discard(one pipe) error {
	p.used--
	return errors.Join(closeFD(one.r), closeFD(one.w))
}

func (p *pipes) close() error {
	var errs []error
	for _, one := range p.free {
		errs = append(errs, closeFD(one.r), closeFD(one.w))
	}
	p.free = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close pipes: %w", err)
	}
	return nil
}
