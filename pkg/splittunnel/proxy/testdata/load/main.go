// Command load is the other end of the tests and benchmarks of package proxy: a server, and clients that load it, in processes of
// their own, so that the proxy's process holds nothing but the proxy.
//
//	load serve ADDRESS PORT           echoes TCP (until the end) and UDP; PORT+1 answers 64 bytes and closes
//	load idle tcp|udp ADDRESS N       opens N connections, exchanges a message on each, prints READY, and does so again for
//	                                  each line of its input; the end of the input ends it
//	load sessions ADDRESS N           connects to PORT+1 N times, 8 at a time, with one exchange each
//	load stream ADDRESS MEGABYTES     sends to PORT+2, which reads and answers at the end
//	load datagrams ADDRESS N          has 64 datagrams of 64 bytes on their way until N have come back; prints how many were lost
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "serve":
		port, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return serve(args[1], port)
	case len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		switch args[0] {
		case "sessions":
			return sessions(args[1], n)
		case "stream":
			return stream(args[1], n)
		case "datagrams":
			return datagrams(args[1], n)
		}
	case len(args) == 4 && args[0] == "idle":
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return idle(args[1], args[2], n)
	}
	return errors.New("see the source for its use")
}

func serve(host string, port int) error {
	at := func(n int) string { return net.JoinHostPort(host, strconv.Itoa(port+n)) }
	echo, err := net.Listen("tcp", at(0))
	if err != nil {
		return err
	}
	once, err := net.Listen("tcp", at(1))
	if err != nil {
		return err
	}
	sink, err := net.Listen("tcp", at(2))
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", at(0))
	if err != nil {
		return err
	}
	udp.(*net.UDPConn).SetReadBuffer(4 << 20)
	go accept(echo, func(c net.Conn) { io.Copy(struct{ io.Writer }{c}, c) })
	go accept(once, func(c net.Conn) {
		b := make([]byte, 64)
		if _, err := io.ReadFull(c, b); err == nil {
			c.Write(b)
		}
	})
	go accept(sink, func(c net.Conn) {
		b := make([]byte, 256<<10)
		for {
			if _, err := c.Read(b); err != nil {
				break
			}
		}
		c.Write(b[:1])
	})
	fmt.Println("READY")
	echoBatches(udp)
	return nil
}

// echoBatches is as fast as a server can be, so that it is the proxy that is measured.
func echoBatches(udp net.PacketConn) {
	p := ipv4.NewPacketConn(udp)
	in, bufs := make([]ipv4.Message, 64), make([][]byte, 64)
	for i := range in {
		bufs[i] = make([]byte, 65536)
		in[i].Buffers = make([][]byte, 1)
	}
	for {
		for i := range in {
			in[i].Buffers[0] = bufs[i]
		}
		n, err := p.ReadBatch(in, 0)
		if err != nil {
			continue // an ICMP error for an answer
		}
		for i := range n {
			in[i].Buffers[0] = bufs[i][:in[i].N]
		}
		for sent := 0; sent < n; {
			k, err := p.WriteBatch(in[sent:n], 0)
			if err != nil {
				break
			}
			sent += k
		}
	}
}

func sessions(addr string, n int) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			b := make([]byte, 64)
			for left.Add(-1) >= 0 {
				c, err := net.DialTimeout("tcp", addr, 10*time.Second)
				if err == nil {
					c.Write(b)
					_, err = io.ReadFull(c, b)
					if err == nil {
						if _, end := c.Read(b); end != io.EOF {
							err = fmt.Errorf("no end: %w", end)
						}
					}
					c.Close()
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range cap(errs) {
		all = errors.Join(all, <-errs)
	}
	return all
}

func stream(addr string, megabytes int) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 1<<20)
	for range megabytes {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b[:1])
	return err
}

func datagrams(addr string, n int) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.(*net.UDPConn).SetReadBuffer(4 << 20)
	p := ipv4.NewPacketConn(c.(*net.UDPConn))
	const window = 64
	out, in := make([]ipv4.Message, window), make([]ipv4.Message, window)
	for i := range window {
		out[i].Buffers = [][]byte{make([]byte, 64)}
		in[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	lost := 0
	for back, flying := 0, 0; back < n; {
		for credit := min(window-flying, n-back-flying); credit > 0; {
			k, err := p.WriteBatch(out[:credit], 0)
			if err != nil {
				return err
			}
			credit -= k
			flying += k
		}
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		k, err := p.ReadBatch(in, 0)
		if err != nil {
			if lost += flying; lost > n+10*window {
				return errors.New("nearly all is lost")
			}
			flying = 0
			continue
		}
		back += k
		flying = max(0, flying-k)
	}
	fmt.Println("lost", lost)
	return nil
}

func accept(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			f(c)
		}()
	}
}

func idle(network, addr string, n int) error {
	conns := make([]net.Conn, n)
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for w := range cap(errs) {
		wg.Go(func() {
			for i := w; i < n; i += cap(errs) {
				c, err := net.DialTimeout(network, addr, 10*time.Second)
				if err == nil {
					conns[i], err = c, exchange(c)
				}
				if err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	fmt.Println("READY")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("READY") {
		for i, c := range conns {
			if err := exchange(c); err != nil {
				return fmt.Errorf("connection %d, later: %w", i, err)
			}
		}
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// exchange asks again when a datagram was lost, as it may be on a busy machine.
func exchange(c net.Conn) (err error) {
	b := make([]byte, 64)
	for range 5 {
		c.SetDeadline(time.Now().Add(4 * time.Second))
		if _, err = c.Write(b); err != nil {
			return err
		}
		if _, err = io.ReadFull(c, b); err == nil || c.LocalAddr().Network() == "tcp" {
			return err
		}
	}
	return err
}
