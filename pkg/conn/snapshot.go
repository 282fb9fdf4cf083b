package conn

import (
	"net/netip"
	"path/filepath"
	"time"

	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ID numbers the connections of one store, from 1.
type ID uint64

// Process is a program that owns a connection. It is immutable once published.
// Unknown fields are empty; a Process with PID 0 is not known at all.
type Process struct {
	PID int    `json:"pid"`
	UID uint32 `json:"uid"`
	// Path of the executable, as the kernel tells it; on Linux only if that is where the host has this very file.
	Path string `json:"path,omitempty"`
	// InnerPath is there in place of Path if only the process' own mounts call it so, as in a container: anybody can mount a program of
	// his at the path of another. It is for people, and nothing to go by.
	InnerPath string `json:"innerPath,omitempty"`
	// Args is the command line, program name included.
	Args []string `json:"args,omitempty"`
	// Script is the file that an interpreter runs, absolute.
	Script string `json:"script,omitempty"`
	// Cgroup is the path of the process in the unified cgroup hierarchy.
	Cgroup string `json:"cgroup,omitempty"`
	// User is the SID of the account that it runs as; Windows only, where UID
	// means nothing.
	User string `json:"user,omitempty"`
	// Package is the family name of a packaged app, and Services are the
	// services that a service host runs; Windows only.
	Package  string   `json:"package,omitempty"`
	Services []string `json:"services,omitempty"`
	// App is what a person calls it.
	App App `json:"app,omitzero"`
	// StartTicks is when the process started, in clock ticks since boot; on
	// Windows in units of 100 ns since 1601. With PID it names a process for
	// good.
	StartTicks uint64 `json:"startTicks,omitempty"`
	// Parent is nil for the first process, or where it is not known.
	Parent *Process `json:"parent,omitempty"`
}

// Name returns a short name for people: the last element of the script's or
// the executable's path.
func (p *Process) Name() string {
	switch {
	case p == nil:
		return ""
	case p.Script != "":
		return filepath.Base(p.Script)
	case p.Path != "":
		return filepath.Base(p.Path)
	case p.InnerPath != "":
		return filepath.Base(p.InnerPath)
	}
	return ""
}

// Executable is what lists and groups call the executable by: its path, or the identity of the app where the path is only the process'
// own name for it.
func (p *Process) Executable() string {
	if p.Path == "" && p.InnerPath != "" {
		return p.App.ID
	}
	return p.Path
}

// SplitTunContext says how a connection leaves by its split tunnel.
type SplitTunContext struct {
	// Interface is the name of the interface it leaves by.
	Interface string `json:"interface"`
	// Source is the address it leaves with.
	Source netip.Addr `json:"source"`
	// Engine carries it, such as "kroute" or "proxy".
	Engine string `json:"engine"`
	// Route tells interfaces apart for the packet backend; 0 is the first.
	Route uint8 `json:"route"`
}

// TunnelContext says which tunnel carries a connection.
type TunnelContext struct {
	// Provider names the Tunneler.
	Provider string `json:"provider"`
	// Detail is for people.
	Detail string `json:"detail,omitempty"`
}

// Snapshot is the state of a connection, or of a DNS query, at one time. It is
// immutable; its pointers point to immutable values.
type Snapshot struct {
	ID        ID               `json:"id"`
	Tuple     packet.Tuple     `json:"tuple"`
	Direction packet.Direction `json:"direction"`
	// Scope of the remote address.
	Scope netscope.Scope `json:"scope"`
	// Interface is the index of the interface the first packet came or went
	// by, 0 if unknown.
	Interface uint32 `json:"interface,omitempty"`
	// ICMPType and ICMPCode are of the first packet of an ICMP connection.
	ICMPType uint8 `json:"icmpType,omitempty"`
	ICMPCode uint8 `json:"icmpCode,omitempty"`

	// Process is nil if it is not known.
	Process *Process `json:"process,omitempty"`
	// Domain is the name that the remote address was looked up by, "" if not
	// known; CNAMEs are the names in between.
	Domain string   `json:"domain,omitempty"`
	CNAMEs []string `json:"cnames,omitempty"`

	// Decision is the latest; its verdict is Undecided until there is one.
	Decision verdict.Decision `json:"decision"`
	// Enforced is false where Decision was only computed (observe mode), so
	// that the connection goes its way whatever Decision says.
	Enforced bool `json:"enforced"`
	// Internal marks our own connections; they are not re-evaluated.
	Internal bool `json:"internal,omitempty"`

	// Query is set in the record of a DNS query, and nil in that of a connection.
	Query *Query `json:"query,omitempty"`

	Tunnel   *TunnelContext   `json:"tunnel,omitempty"`
	SplitTun *SplitTunContext `json:"splitTun,omitempty"`

	Started time.Time `json:"started"`
	// Ended is zero while the connection lives.
	Ended time.Time `json:"ended,omitzero"`

	// The figures below are filled in by Conn.Snapshot.

	// LastSeen is when user space last saw a packet of it.
	LastSeen time.Time `json:"lastSeen"`
	// Packets is the number of packets that user space saw.
	Packets       uint64 `json:"packets"`
	ReceivedBytes uint64 `json:"receivedBytes"`
	SentBytes     uint64 `json:"sentBytes"`
	// ReceivedRate and SentRate are in bytes a second, over about the last second that something was told about.
	ReceivedRate uint64 `json:"receivedRate,omitempty"`
	SentRate     uint64 `json:"sentRate,omitempty"`
}

// Verdict is short for s.Decision.Verdict.
func (s *Snapshot) Verdict() verdict.Verdict { return s.Decision.Verdict }

// Live reports whether the connection has not ended.
func (s *Snapshot) Live() bool { return s.Ended.IsZero() }

// Established reports whether the connection lives and gets somewhere: it is
// accepted or rerouted.
func (s *Snapshot) Established() bool { return s.Live() && s.Decision.Verdict.Allows() }
