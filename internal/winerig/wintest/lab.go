package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/winerig"
)

// whoPort is where the server tells who asks.
const whoPort = "7777"

// stage stands in for a test, for the harness that builds labs. Fatalf and Skipf end what inLab runs.
type stage struct {
	undo   []func()
	failed bool
}

// ended is what Fatalf and Skipf panic with.
type ended struct{ error }

func (*stage) Helper()                         {}
func (*stage) Name() string                    { return "test-windows" }
func (s *stage) Cleanup(undo func())           { s.undo = append(s.undo, undo) }
func (*stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (*stage) Fatalf(format string, args ...any) {
	panic(ended{fmt.Errorf(format, args...)})
}
func (s *stage) Skipf(format string, args ...any) { s.Fatalf(format, args...) }
func (s *stage) Failed() bool                     { return s.failed }

func (s *stage) Errorf(format string, args ...any) {
	s.failed = true
	s.Logf(format, args...)
}

// close runs what Cleanup was given, in reverse.
func (s *stage) close() {
	for len(s.undo) > 0 {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		last()
	}
}

// inLab runs fn with what leads commands into the client's namespace of a lab with two uplinks; without root, into nothing.
func inLab(fn func(enter, env []string) error) (err error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "test-windows: not root: tests with two uplinks are skipped")
		return fn(nil, nil)
	}
	s := &stage{}
	defer func() {
		r := recover()
		s.close()
		if e, ok := r.(ended); ok {
			err = e.error
		} else if r != nil {
			panic(r)
		}
		if s.failed {
			err = errors.Join(err, errors.New("the lab could not be removed"))
		}
	}()
	u := testnet.New(s).Uplinks()
	tellWho(s, u.Server)
	told, err := json.Marshal(winerig.Uplinks{
		Default: winerig.Uplink{
			Name: "vpn0", Index: u.Client.Index(s, "vpn0"), Metric: testnet.VPNMetric,
			Addr4: testnet.VPNClientV4, Addr6: testnet.VPNClientV6, Gateway4: testnet.VPNGatewayV4, Gateway6: testnet.VPNGatewayV6,
		},
		Other: winerig.Uplink{
			Name: "eth0", Index: u.Client.Index(s, "eth0"), Metric: testnet.ISPMetric,
			Addr4: testnet.ISPClientV4, Addr6: testnet.ISPClientV6, Gateway4: testnet.ISPGatewayV4, Gateway6: testnet.ISPGatewayV6,
		},
		Server4: net.JoinHostPort(testnet.UplinkServerV4, whoPort), Server6: net.JoinHostPort(testnet.UplinkServerV6, whoPort),
	})
	if err != nil {
		return fmt.Errorf("describe the lab: %w", err)
	}
	enter := u.Client.Command(context.Background(), "env").Args
	return fn(enter, []string{winerig.UplinkVar + "=" + string(told)})
}

// tellWho answers connections and datagrams with the address that they come from, until the lab ends. It listens on exact addresses:
// an answer from the wildcard would come from that of the server's interface.
func tellWho(s *stage, h *testnet.Host) {
	for _, addr := range []string{testnet.UplinkServerV4, testnet.UplinkServerV6} {
		l, err := h.Listen(context.Background(), "tcp", net.JoinHostPort(addr, whoPort))
		if err != nil {
			s.Fatalf("server: %v", err)
		}
		p, err := h.ListenPacket(context.Background(), "udp", net.JoinHostPort(addr, whoPort))
		if err != nil {
			s.Fatalf("server: %v", err)
		}
		s.Cleanup(func() {
			if err := errors.Join(l.Close(), p.Close()); err != nil {
				s.Errorf("server: %v", err)
			}
		})
		go accept(s, l)
		go receive(s, p)
	}
}

func accept(s *stage, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if _, err := c.Write([]byte(c.RemoteAddr().String())); err != nil {
			s.Logf("answer %v: %v", c.RemoteAddr(), err)
		}
		if err := c.Close(); err != nil {
			s.Logf("answer %v: %v", c.RemoteAddr(), err)
		}
	}
}

func receive(s *stage, p net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		_, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP answer to something sent before
		}
		if _, err := p.WriteTo([]byte(from.String()), from); err != nil {
			s.Logf("answer %v: %v", from, err)
		}
	}
}
