package nfq

import "sync/atomic"

// stat is the index of a counter.
type stat int

const (
	statPackets stat = iota
	statVerdicts
	statLookups
	statHanded
	statTimeouts
	statShutdown
	statOverflows
	statUndecodable
	statBadMessages
	statUnknownIDs
	statNetlinkErrors
	statENOBUFS
	statHostErrors
	numStats
)

// counters are read by anybody. A reader adds its tally to them once a burst.
type counters [numStats]atomic.Uint64

// tally is what one reader counted since.
type tally [numStats]uint64

// add moves what t counted to c.
func (c *counters) add(t *tally) {
	for i, n := range t {
		if n != 0 {
			c[i].Add(n)
			t[i] = 0
		}
	}
}

// Stats are sums since New, over all queues.
type Stats struct {
	// Packets were received from the kernel.
	Packets uint64 `json:"packets"`
	// Verdicts were sent for them.
	Verdicts uint64 `json:"verdicts"`
	// Lookups were decided by the handler's Lookup.
	Lookups uint64 `json:"lookups"`
	// Handed were given to the handler's Handle.
	Handed uint64 `json:"handed"`
	// Waiting is how many of those have no verdict at this moment.
	Waiting int `json:"waiting"`
	// Timeouts got the default verdict because the handler was too slow.
	Timeouts uint64 `json:"timeouts"`
	// Shutdown got it because Run ended.
	Shutdown uint64 `json:"shutdown"`
	// Overflows got it because Config.MaxPending packets waited already.
	Overflows uint64 `json:"overflows"`
	// Undecodable got it because their headers make no sense.
	Undecodable uint64 `json:"undecodable"`
	// BadMessages are netlink messages that make no sense.
	BadMessages uint64 `json:"badMessages"`
	// UnknownIDs are verdicts for packets that the kernel no longer had.
	UnknownIDs uint64 `json:"unknownIds"`
	// NetlinkErrors are other errors that the kernel answered a verdict with.
	NetlinkErrors uint64 `json:"netlinkErrors"`
	// ENOBUFS is how often the kernel said that it lost messages to us.
	ENOBUFS uint64 `json:"enobufs"`
	// HostErrors are failures to write into conntrack what a verdict asked for.
	// Each costs another question about the connection.
	HostErrors uint64 `json:"hostErrors"`
	// KernelDrops are packets that the kernel dropped because Config.MaxQueueLen
	// packets waited, of this Run or the last.
	KernelDrops uint64 `json:"kernelDrops"`
	// UserDrops are packets that the kernel dropped because the receive buffer
	// was full, of this Run or the last.
	UserDrops uint64 `json:"userDrops"`
	// LostEnds is how often the kernel lost reports about ended connections,
	// one or many, of this Run or the last.
	LostEnds uint64 `json:"lostEnds"`
}

func (c *counters) snapshot() Stats {
	return Stats{
		Packets:       c[statPackets].Load(),
		Verdicts:      c[statVerdicts].Load(),
		Lookups:       c[statLookups].Load(),
		Handed:        c[statHanded].Load(),
		Timeouts:      c[statTimeouts].Load(),
		Shutdown:      c[statShutdown].Load(),
		Overflows:     c[statOverflows].Load(),
		Undecodable:   c[statUndecodable].Load(),
		BadMessages:   c[statBadMessages].Load(),
		UnknownIDs:    c[statUnknownIDs].Load(),
		NetlinkErrors: c[statNetlinkErrors].Load(),
		ENOBUFS:       c[statENOBUFS].Load(),
		HostErrors:    c[statHostErrors].Load(),
	}
}
