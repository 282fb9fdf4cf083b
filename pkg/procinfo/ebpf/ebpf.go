package ebpf

import (
	"errors"
	"log/slog"
	"strconv"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

// ErrRefused is wrapped by New's error where the kernel lets nothing of it in: no rights (CAP_BPF), no BTF, no cgroup v2.
var ErrRefused = errors.New("ebpf: the kernel refuses it")

// Feature is something that a Tracker does, and that a kernel may refuse by itself.
type Feature uint8

// The features, in the order in which they are attached.
const (
	// FeatureProcesses follows exec, fork and exit.
	FeatureProcesses Feature = iota
	// FeatureSockets notes who makes, connects and closes datagram sockets.
	FeatureSockets
	// FeatureTCP notes who connects.
	FeatureTCP
	// FeatureUDP notes who sends datagrams that have an address each.
	FeatureUDP
	// FeatureConnectedUDP notes who sends on datagram sockets with one peer.
	FeatureConnectedUDP
	// FeatureForwarded does the same in other network namespaces, and for pings there.
	FeatureForwarded
	// FeatureSeed knows the sockets and processes that are older than the Tracker.
	FeatureSeed
	// FeatureEnds tells when TCP connections end.
	FeatureEnds
	// FeatureUsage counts bytes.
	FeatureUsage

	numFeatures = int(FeatureUsage) + 1
)

// featureTexts name the features and say what is lost without them.
//
//nolint:gochecknoglobals // a table that nobody writes
var featureTexts = [numFeatures]struct{ name, lost string }{
	FeatureProcesses:    {"processes", "processes that have ended cannot be described, and one that executes another program is noticed late"},
	FeatureSockets:      {"sockets", "connected UDP sockets of programs that end at once stay unknown"},
	FeatureTCP:          {"tcp", "TCP connections of programs that end at once, and of containers, stay unknown"},
	FeatureUDP:          {"udp", "datagrams of programs that end at once, and of containers, stay unknown"},
	FeatureConnectedUDP: {"connected-udp", "connected UDP sockets of programs that end at once stay unknown"},
	FeatureForwarded:    {"forwarded", "connected UDP sockets of containers stay unknown"},
	FeatureSeed:         {"seed", "sockets that are older than the start take longer to attribute"},
	FeatureEnds:         {"ends", "the end of TCP connections is told by connection tracking instead"},
	FeatureUsage:        {"usage", "transferred bytes are told by connection tracking instead, less often"},
}

// String returns the feature's name.
func (f Feature) String() string {
	if int(f) < numFeatures {
		return featureTexts[f].name
	}
	return "feature " + strconv.Itoa(int(f))
}

// Lost says what goes without the feature, for people.
func (f Feature) Lost() string {
	if int(f) < numFeatures {
		return featureTexts[f].lost
	}
	return ""
}

// MarshalText returns String.
func (f Feature) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (f *Feature) UnmarshalText(b []byte) error {
	for i := range featureTexts {
		if featureTexts[i].name == string(b) {
			*f = Feature(i)
			return nil
		}
	}
	return errors.New("ebpf: no feature " + strconv.Quote(string(b)))
}

// Config of a Tracker. The zero value is usable.
type Config struct {
	// Cgroup is the directory of a cgroup v2; what is in it and below is seen. Default: the root of the hierarchy.
	Cgroup string
	// Without lists features that are not to be used.
	Without []Feature
	// Proc is where procfs of our own pid namespace is mounted. Default "/proc".
	Proc string
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Missing is a feature that is not in use.
type Missing struct {
	Feature Feature `json:"feature"`
	// Lost says what that means, for people.
	Lost string `json:"lost"`
	// Why is the kernel's answer, or that the configuration leaves it out.
	Why string `json:"why"`
}

// Status says what works.
type Status struct {
	// Active features, in order.
	Active []Feature `json:"active"`
	// Missing are the others.
	Missing []Missing `json:"missing,omitempty"`
	// Cgroup is what the programs are attached to.
	Cgroup string `json:"cgroup,omitempty"`
}

// Has reports whether a feature works.
func (s *Status) Has(f Feature) bool {
	for _, a := range s.Active {
		if a == f {
			return true
		}
	}
	return false
}

// Stats counts since New.
type Stats struct {
	// Lookups is the number of questions for a process.
	Lookups uint64 `json:"lookups"`
	// Found were answered; Cached of them without looking at the process again, Ended of them about one that is gone or has
	// executed another program since.
	Found  uint64 `json:"found"`
	Cached uint64 `json:"cached"`
	Ended  uint64 `json:"ended"`
	// Shared were not answered because several processes use the socket.
	Shared uint64 `json:"shared"`
	// Forgotten were not answered because nothing is remembered of the process.
	Forgotten uint64 `json:"forgotten"`
	// Uncounted are bytes that there was no room to count per connection.
	Uncounted uint64 `json:"uncounted"`
	// Events is how many the kernel told, and LostEvents how many it had no room for.
	Events     uint64 `json:"events"`
	LostEvents uint64 `json:"lostEvents"`
}

// Reports are what Run tells. Each may be nil. They are called by Run's goroutine, one at a time, and must not block.
type Reports struct {
	// Traffic gets transferred bytes, once a second, and the ends of TCP connections, within a fifth of a second. Ends come once
	// for each end of a connection that is on this host.
	Traffic intercept.Traffic
	// Changed tells that a process that has owned connections executed another program, or ended.
	Changed func(pid int, startTicks uint64)
	// Moved tells that another process goes on with a connection. The local address may be unspecified: that of a socket that
	// sends from whatever address fits.
	Moved func(t packet.Tuple)
}
