package splittunnel

import (
	"context"
	"errors"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
)

// Path is a way out of this host: an interface, as one family uses it.
type Path struct {
	Family netif.Family
	netif.Choice
}

// Engine carries connections out by chosen interfaces. Its methods may be called from any goroutine.
type Engine interface {
	// Name is what people call it: "kroute" or "proxy".
	Name() string
	// Carries reports whether it can carry connections of the protocol. For ICMP and ICMPv6 it means echo.
	Carries(p packet.Protocol) bool
	// Run sets up what the engine needs on this host, calls ready, and keeps it true until ctx is done. Then it undoes what it
	// did, unless it was told to leave the host closed, and returns nil.
	Run(ctx context.Context, ready func()) error
	// Use makes exactly these paths usable, at most one per interface and family, and returns when the kernel knows. Connections
	// on other paths get nowhere from then on; they do not take another way. It may be called before Run: then Run does the work,
	// before it calls ready. An error means that some path does not work; Take refuses that one, and the engine goes on trying.
	Use(ctx context.Context, paths []Path) error
	// Take prepares for a connection that is about to leave by a path, and returns what the packet backend has to know: the route
	// number. It is called on the packet path: it must not block. The error says, for people, why the path cannot be used.
	Take(t packet.Tuple, p Path) (route uint8, err error)
	// Stop is told that the connection is over, or goes another way. Connections that Take never saw are ignored. It must not
	// block.
	Stop(t packet.Tuple)
	// Figures are for people and programs: a struct with JSON tags.
	Figures() any
}

// ErrNotReady is wrapped by Engine.Take where a path is not, or not yet, usable.
var ErrNotReady = errors.New("splittunnel: path not ready")
