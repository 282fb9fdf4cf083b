// Command talk sends a line to echo servers and wants it back: the program whose connections are split in tests.
//
//	talk tcp ADDR          one TCP connection
//	talk udp ADDR          one connected UDP socket
//	talk udpto ADDR...     one unconnected UDP socket, a datagram to each address, answers in any order
//	talk big SIZE ADDR     one UDP datagram of this size
//	talk bulk ADDR         1 MiB there and back by TCP
//	talk hold ADDR         a TCP connection that sends a line every 20 ms until it breaks
//	talk stun ADDR...      STUN binding requests from one UDP socket, and prints the mapped addresses
//	talk stunserve ADDR... answers those, until it is ended
//	talk many RATE ADDR    TCP connections, so many a second, until it is ended; failures are expected and counted
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const patience = 4 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: talk tcp|udp|udpto|big|bulk|hold|stun|stunserve|many ...")
	}
	switch args[0] {
	case "tcp", "udp":
		return once(args[0], args[1], []byte("hello\n"))
	case "udpto":
		return unconnected(args[1:])
	case "stun":
		return stun(args[1:])
	case "stunserve":
		return stunServe(args[1:])
	case "big":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7)
		}
		return once("udp", args[2], b)
	case "bulk":
		return bulk(args[1])
	case "hold":
		return hold(args[1])
	case "many":
		rate, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return many(rate, args[2])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func once(network, addr string, line []byte) error {
	start := time.Now()
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return fmt.Errorf("%w (after %v)", err, time.Since(start).Round(time.Millisecond))
	}
	defer c.Close()
	fmt.Println("from", c.LocalAddr())
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != string(line) {
		return errors.New("got something else back")
	}
	return nil
}

// unconnected wants one answer from each address, and from no other.
func unconnected(addrs []string) error {
	first, err := netip.ParseAddrPort(addrs[0])
	if err != nil {
		return err
	}
	network := "udp4"
	if first.Addr().Is6() {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	missing := map[netip.AddrPort]string{}
	for i, a := range addrs {
		to, err := netip.ParseAddrPort(a)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("datagram %d", i)
		missing[to] = text
		if _, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil {
			return fmt.Errorf("to %v: %w", to, err)
		}
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	for len(missing) > 0 {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return fmt.Errorf("%d of %d answers missing: %w", len(missing), len(addrs), err)
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if missing[from] != string(b[:n]) {
			return fmt.Errorf("got %q from %v", b[:n], from)
		}
		delete(missing, from)
	}
	return nil
}

func bulk(addr string) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(4 * patience))
	const size = 1 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		failed <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != string(sent) {
		return errors.New("got something else back")
	}
	return <-failed
}

func hold(addr string) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("holding")
	b := make([]byte, 6)
	for {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte("hello\n")); err != nil {
			return fmt.Errorf("broke: %w", err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return fmt.Errorf("broke: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// many opens connections until it is killed, and says every 100 ms how many worked and failed.
func many(rate int, addr string) error {
	var worked, failed atomic.Uint64
	var wg sync.WaitGroup
	slots := make(chan struct{}, 400)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	report := time.NewTicker(100 * time.Millisecond)
	for {
		select {
		case <-report.C:
			fmt.Println(time.Now().UnixMilli(), worked.Load(), failed.Load())
		case <-tick.C:
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			wg.Go(func() {
				defer func() { <-slots }()
				c, err := net.DialTimeout("tcp", addr, time.Second)
				if err != nil {
					failed.Add(1)
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Second))
				b := make([]byte, 3)
				if _, err := c.Write([]byte("hi\n")); err == nil {
					_, err = io.ReadFull(c, b)
				}
				if err != nil {
					failed.Add(1)
					return
				}
				worked.Add(1)
			})
		}
	}
}
