package kroute

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
)

// Defaults of Config.
const (
	DefaultMark      = 1719
	DefaultTable     = 1719
	DefaultPriority  = 719
	DefaultProtocol  = 207
	DefaultMaxRoutes = 8

	// MaxRoutesLimit is the greatest Config.MaxRoutes: the packet backend has that many marks.
	MaxRoutesLimit = 71
)

const (
	mainTable      = 254 // with 253 (default) and 255 (local) the kernel's own tables
	localTable     = 255
	mainPriority   = 32766 // of the kernel's rule for the main table
	lowestProtocol = 5     // 0 to 4 are the kernel's and the administrator's
)

// Errors that Run and Cleanup wrap, beside those of the system.
var (
	// ErrConfig: the configuration cannot work.
	ErrConfig = errors.New("kroute: bad configuration")
	// ErrInUse: an engine with the same Config.Table runs in this network namespace.
	ErrInUse = errors.New("kroute: another engine uses these numbers")
	// ErrTableInUse: somebody else has routes in one of the tables.
	ErrTableInUse = errors.New("kroute: routing table is in use")
)

// Config of an Engine. The zero value is good, except that without a StateFile less is known after a crash.
type Config struct {
	// Mark is the packet mark of route 0; route n has Mark+n. It has to agree with the packet backend's. 0 is DefaultMark.
	Mark uint32
	// Table is the routing table of route 0; route n has Table+n. The tables must be nobody else's. 0 is DefaultTable.
	Table uint32
	// Priority is that of the rules; Priority+1 is used, too. Where others have rules in front, ours go in front of those. 0 is
	// DefaultPriority.
	Priority uint32
	// Protocol is the route protocol that marks routes and rules as ours: a number from 5 to 255 that no routing daemon has
	// (/etc/iproute2/rt_protos). Engines in one network namespace should have the same. 0 is DefaultProtocol.
	Protocol uint8
	// MaxRoutes is how many interfaces can be in use at once, at most MaxRoutesLimit. 0 is DefaultMaxRoutes.
	MaxRoutes int
	// StateFile remembers which interface has which number, and the sysctl's old value, for a start after a crash and for Cleanup.
	// Its directory is made if need be, for root alone. Optional: without it both are read from the kernel's tables, as far as they
	// are still there.
	StateFile string
	// KeepOnExit leaves the host closed when Run ends: rules and unreachable defaults stay, and marked packets get nowhere.
	KeepOnExit bool
	// Guard is told which interface each route leaves by, before any connection does. Between the moment when somebody adds a
	// routing rule in front of ours, as wg-quick does, and that when ours are in front again, it is what keeps packets from
	// leaving by another interface: give the *nfq.Source that marks them. Optional.
	Guard Guard
	// Logger gets what was repaired and what could not be. Optional; nil is silence.
	Logger *slog.Logger
}

// Guard drops packets of routes that leave by another interface than theirs.
type Guard interface {
	// AllowRoutes gets the names of all interfaces in use, by route number.
	AllowRoutes(names map[uint8]string) error
}

// withDefaults checks the configuration and fills it in.
func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		value *uint32
		def   uint32
	}{{&c.Mark, DefaultMark}, {&c.Table, DefaultTable}, {&c.Priority, DefaultPriority}} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if c.Protocol == 0 {
		c.Protocol = DefaultProtocol
	}
	if c.MaxRoutes == 0 {
		c.MaxRoutes = DefaultMaxRoutes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.MaxRoutes < 1 || c.MaxRoutes > MaxRoutesLimit {
		return fmt.Errorf("%w: MaxRoutes is %d; use 1 to %d", ErrConfig, c.MaxRoutes, MaxRoutesLimit)
	}
	last := uint32(c.MaxRoutes - 1)
	switch {
	case c.Mark+last < c.Mark:
		return fmt.Errorf("%w: Mark is %d, which leaves no room for %d routes", ErrConfig, c.Mark, c.MaxRoutes)
	case c.Table+last < c.Table:
		return fmt.Errorf("%w: Table is %d, which leaves no room for %d routes", ErrConfig, c.Table, c.MaxRoutes)
	case c.Table <= mainTable+1 && c.Table+last >= mainTable-1:
		return fmt.Errorf("%w: tables %d to %d include the kernel's own (253 to 255); set Table to 256 or more",
			ErrConfig, c.Table, c.Table+last)
	case c.Priority+1 >= mainPriority || c.Priority+1 == 0:
		return fmt.Errorf("%w: Priority is %d; use 1 to %d, before the rule of the main table", ErrConfig, c.Priority, mainPriority-2)
	case c.Protocol < lowestProtocol:
		return fmt.Errorf("%w: Protocol is %d; 0 to 4 are the kernel's, use %d to 255", ErrConfig, c.Protocol, lowestProtocol)
	case c.StateFile != "" && !filepath.IsAbs(c.StateFile):
		return fmt.Errorf("%w: StateFile is %q; give the whole path", ErrConfig, c.StateFile)
	}
	return nil
}
