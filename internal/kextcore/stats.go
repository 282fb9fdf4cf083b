package kextcore

import "sync/atomic"

// counters are read by anybody at any time.
type counters struct {
	packets, verdicts, lookups, handed, infos       atomic.Uint64
	timeouts, shutdown, overflows, proxied          atomic.Uint64
	badMessages, emptyReads, verdictErrors, delayed atomic.Uint64
}

// Stats are sums since New.
type Stats struct {
	// Packets came from the driver and wait, or waited, for a verdict.
	Packets uint64 `json:"packets"`
	// Verdicts were told to the driver.
	Verdicts uint64 `json:"verdicts"`
	// Lookups were decided by the handler's Lookup.
	Lookups uint64 `json:"lookups"`
	// Handed were given to the handler's Handle.
	Handed uint64 `json:"handed"`
	// Infos are info-only packets.
	Infos uint64 `json:"infos"`
	// Waiting is how many packets have no verdict at this moment.
	Waiting int `json:"waiting"`
	// Timeouts got the default verdict because the handler was too slow.
	Timeouts uint64 `json:"timeouts"`
	// Shutdown got it because Run ended.
	Shutdown uint64 `json:"shutdown"`
	// Overflows got it because too many waited already.
	Overflows uint64 `json:"overflows"`
	// Proxied were accepted because an older driver asks about what it has redirected to the split tunnel's proxy.
	Proxied uint64 `json:"proxied"`
	// BadMessages of the driver made no sense and were skipped.
	BadMessages uint64 `json:"badMessages"`
	// EmptyReads brought nothing.
	EmptyReads uint64 `json:"emptyReads"`
	// VerdictErrors are verdicts that the driver did not take.
	VerdictErrors uint64 `json:"verdictErrors"`
	// DelayedForgets is how often Forget was put off, because the driver can only forget everything.
	DelayedForgets uint64 `json:"delayedForgets"`
}

func (c *counters) snapshot() Stats {
	return Stats{
		Packets:        c.packets.Load(),
		Verdicts:       c.verdicts.Load(),
		Lookups:        c.lookups.Load(),
		Handed:         c.handed.Load(),
		Infos:          c.infos.Load(),
		Timeouts:       c.timeouts.Load(),
		Shutdown:       c.shutdown.Load(),
		Overflows:      c.overflows.Load(),
		Proxied:        c.proxied.Load(),
		BadMessages:    c.badMessages.Load(),
		EmptyReads:     c.emptyReads.Load(),
		VerdictErrors:  c.verdictErrors.Load(),
		DelayedForgets: c.delayed.Load(),
	}
}
