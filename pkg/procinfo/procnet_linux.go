package procinfo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// netFile is an open file of /proc/net. It belongs to the network namespace in
// which it was opened, and every read from its start makes a new list.
type netFile struct {
	// mu guards buf, and is held while reading: the kernel makes the list as one
	// stream for each open file, so that two readers would make it start over
	// again and again.
	mu   sync.Mutex
	file *os.File
	buf  []byte
}

// procNet is the tables of sockets in /proc/net, by name. Tables that the kernel
// does not have are missing.
type procNet map[string]*netFile

// openProcNet opens the tables of the calling thread's network namespace.
func openProcNet(proc string) (procNet, error) {
	p := make(procNet)
	for _, name := range [...]string{
		"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "icmp", "icmp6", "raw", "raw6",
	} {
		file, err := os.Open(filepath.Join(proc, "thread-self/net", name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, errors.Join(fmt.Errorf("procinfo: open table of sockets: %w", err), p.close())
		}
		p[name] = &netFile{file: file}
	}
	return p, nil
}

func (p procNet) close() error {
	var errs []error
	for _, f := range p {
		errs = append(errs, f.file.Close())
	}
	return errors.Join(errs...)
}

// list appends the sockets of a table that keep approves of. A table that does
// not exist is empty.
func (p procNet) list(name string, into []sock, keep func(s *sock) bool) ([]sock, error) {
	f := p[name]
	if f == nil {
		return into, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		return into, fmt.Errorf("read /proc/net/%s: %w", name, err)
	}
	v6 := name[len(name)-1] == '6'
	for line := range bytes.Lines(f.buf) {
		s, ok := parseNetLine(line)
		s.v6 = v6
		if ok && keep(&s) {
			into = append(into, s)
		}
	}
	return into, nil
}

// read fills buf with the whole file. f.mu is held.
func (f *netFile) read() error {
	const firstSize = 16 << 10
	if f.buf == nil {
		f.buf = make([]byte, firstSize)
	}
	f.buf = f.buf[:cap(f.buf)]
	for n := 0; ; {
		if n == len(f.buf) {
			f.buf = append(f.buf, make([]byte, len(f.buf))...)
		}
		m, err := f.file.ReadAt(f.buf[n:], int64(n))
		n += m
		switch {
		case errors.Is(err, io.EOF):
			f.buf = f.buf[:n]
			return nil
		case errors.Is(err, os.ErrClosed):
			return ErrClosed
		case err != nil:
			return err //nolint:wrapcheck // list names the file
		}
	}
}
