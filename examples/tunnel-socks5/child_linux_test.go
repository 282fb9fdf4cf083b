package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
)

// childVar has the test binary run as the program, with these flags and a split tunnel.
const childVar = "WEIR_TUNNEL_SOCKS5_CHILD"

func TestMain(m *testing.M) {
	if flags, ok := os.LookupEnv(childVar); ok {
		if err := child(strings.Fields(flags)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// everything is a SplitTunneler that would take all connections.
type everything struct{}

func (everything) SplitTun(_ context.Context, s *conn.Snapshot) (*conn.SplitTunContext, bool, error) {
	fmt.Println("asked", s.Tuple.Remote)
	return &conn.SplitTunContext{Interface: "eth0", Engine: "fake"}, true, nil
}

func (everything) Stop(packet.Tuple) {}

func (everything) Active() bool { return true }

// child is the program with a split tunnel. At SIGUSR1 it calls Stop for what goes through the tunnel, and at the end it tells
// what was decided.
func child(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o, err := parse(args, os.Stdout)
	if err != nil {
		return err
	}
	o.split = everything{}
	c, err := newClient(o)
	if err != nil {
		return err
	}
	// What an engine would do.
	if err := c.source.AllowRoutes(map[uint8]string{0: "eth0"}); err != nil {
		return err
	}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	go func() {
		for range usr1 {
			c.store.Range(func(x *conn.Conn) bool {
				if s := x.State(); s.Tunnel != nil {
					c.tunnel.Stop(s.Tuple)
				}
				return true
			})
		}
	}()
	err = errors.Join(c.run(ctx), c.finder.Close())
	for _, s := range c.store.Query(connstore.Query{Direction: connstore.OnlyOutbound}).Connections {
		fmt.Println(uint8(s.Verdict()), s.Decision.Reason.Code, s.Tuple.Remote)
	}
	fmt.Println("sessions", len(c.tunnel.sessions))
	return err
}
