package procinfo

import (
	"context"
	"errors"
	"strconv"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// ErrUnknown is wrapped by every error that says: the process is not known.
// The error is an *UnknownError then.
var ErrUnknown = errors.New("procinfo: process unknown")

// ErrClosed is wrapped by errors of a Finder that was closed.
var ErrClosed = errors.New("procinfo: finder closed")

// Reason says why a process is not known.
type Reason uint8

// Reasons. The numbers have no order.
const (
	// ReasonNoSocket: no socket of our network namespace fits.
	ReasonNoSocket Reason = 1
	// ReasonNoProcess: the socket exists and no process that we can see holds
	// it: it is the kernel's own, closed already, or of a process outside our
	// pid namespace.
	ReasonNoProcess Reason = 2
	// ReasonGone: the socket or its process vanished while we looked.
	ReasonGone Reason = 3
	// ReasonNotPermitted: we may not look into all processes.
	ReasonNotPermitted Reason = 4
	// ReasonSeveral: several processes may be the owner; see Candidates.
	ReasonSeveral Reason = 5
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case ReasonNoSocket:
		return "no socket"
	case ReasonNoProcess:
		return "socket without a process"
	case ReasonGone:
		return "process gone"
	case ReasonNotPermitted:
		return "not permitted"
	case ReasonSeveral:
		return "several owners"
	}
	return "reason " + strconv.Itoa(int(r))
}

// MarshalText returns String.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnknownError tells why a process is not known. It is shared: do not change
// it.
type UnknownError struct {
	Reason Reason
	// Candidates are the possible owners, if Reason is ReasonSeveral.
	Candidates []*conn.Process
}

// Error implements error.
func (e *UnknownError) Error() string {
	if len(e.Candidates) == 0 {
		return ErrUnknown.Error() + ": " + e.Reason.String()
	}
	text := ErrUnknown.Error() + ": " + e.Reason.String() + ":"
	for _, p := range e.Candidates {
		text += " " + p.Name() + "[" + strconv.Itoa(p.PID) + "]"
	}
	return text
}

// Gone reports whether the process has ended, or closed its socket, since it
// sent what was asked about.
func (e *UnknownError) Gone() bool { return e.Reason == ReasonNoSocket || e.Reason == ReasonGone }

// Unwrap returns ErrUnknown.
func (e *UnknownError) Unwrap() error { return ErrUnknown }

// Method says how a process was found.
type Method uint8

// Methods.
const (
	// MethodFirst is one of Config.First.
	MethodFirst Method = 1
	// MethodInetDiag is the kernel's inet_diag.
	MethodInetDiag Method = 2
	// MethodProcNet is a read through /proc/net.
	MethodProcNet Method = 3
	// MethodDriver is the packet backend, which told the process with the packet.
	MethodDriver Method = 4
	// MethodEBPF is package ebpf: what the kernel told when the connection was made.
	MethodEBPF Method = 5
)

// String returns the method's name.
func (m Method) String() string {
	switch m {
	case MethodFirst:
		return "first"
	case MethodInetDiag:
		return "inet_diag"
	case MethodProcNet:
		return "proc"
	case MethodDriver:
		return "driver"
	case MethodEBPF:
		return "ebpf"
	}
	return "method " + strconv.Itoa(int(m))
}

// MarshalText returns String.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *Method) UnmarshalText(b []byte) error {
	for n := MethodFirst; n <= MethodEBPF; n++ {
		if n.String() == string(b) {
			*m = n
			return nil
		}
	}
	return errors.New("procinfo: no method " + strconv.Quote(string(b)))
}

// Owner is what a SocketOwner knows.
type Owner struct {
	// PID in our pid namespace.
	PID int
	// StartTicks guards against reuse of PID: Find answers only with a process
	// that started then. 0 means that PID is certain to live.
	StartTicks uint64
	// Process is answered as it is if it is not nil: for owners that remember
	// processes which have ended since. It is not changed and must not be.
	Process *conn.Process
}

// SocketOwner finds the owner of a connection by means of its own. An error
// that wraps ErrUnknown, like any other, makes Find try what comes next.
type SocketOwner interface {
	Owner(ctx context.Context, info *packet.Info, direction packet.Direction) (Owner, error)
}

// QuickOwner is a SocketOwner that can answer many questions at once: FindQuick asks it. OwnerQuick takes a microsecond or two and waits
// for nothing. An *UnknownError with ReasonGone says that only Owner can tell; after any other error FindQuick goes on to the next.
type QuickOwner interface {
	SocketOwner
	OwnerQuick(info *packet.Info, direction packet.Direction) (Owner, error)
}

// ProcessDescriber is a SocketOwner that wants living processes described: New tells it how. describe is Finder.Process, which does
// not ask SocketOwners.
type ProcessDescriber interface {
	DescribeBy(describe func(pid int) (*conn.Process, error))
}

// MethodNamer is a SocketOwner whose answers count as another method than MethodFirst.
type MethodNamer interface{ Method() Method }

// Config is what New takes.
type Config struct {
	// First are asked before anything else, in order. Optional.
	First []SocketOwner
	// Proc is where procfs of our own pid namespace is mounted. Default
	// "/proc".
	Proc string
	// Processes is how many processes are remembered; each costs three file
	// descriptors. Default 128.
	Processes int
	// Sockets is how many inet_diag lookups may run at once; each costs one
	// file descriptor. Default 4.
	Sockets int
	// ProcOnly leaves inet_diag alone: sockets are looked up in /proc/net.
	ProcOnly bool
}

// Stats counts since New.
type Stats struct {
	// Lookups is the number of calls of Find.
	Lookups uint64 `json:"lookups"`
	// Found tells by which method processes were found.
	Found map[Method]uint64 `json:"found"`
	// Unknown tells why processes were not found.
	Unknown map[Reason]uint64 `json:"unknown"`
	// Failed is the number of calls that ended in another error.
	Failed uint64 `json:"failed"`
	// Remembered is the number of times that a socket's process was found among
	// the remembered processes at once.
	Remembered uint64 `json:"remembered"`
	// Scans is the number of times that descriptors had to be listed.
	Scans uint64 `json:"scans"`
	// Processes is the number of processes remembered now.
	Processes int `json:"processes"`
	// InetDiag tells for which protocols the kernel has inet_diag.
	InetDiag []packet.Protocol `json:"inetDiag"`
}
