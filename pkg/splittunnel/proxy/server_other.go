//go:build !linux && !windows

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
)

// impl has nothing here; what runs says so.
type impl struct{}

func (*impl) err() error { return supported() }

func supported() error {
	return fmt.Errorf("proxy: relay redirected connections on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

func (s *Server) run(context.Context, func()) error { return s.impl.err() }

func (s *Server) addrs() []netip.AddrPort { return nil }

func (s *Server) sessions() []Session { return nil }

func (s *Server) reset(Request) {}

func (s *Server) cut(context.Context, func(Request, Egress) bool) (int, error) { return 0, supported() }
