package ivpn

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// Event is something that a Client hears or does: one of the types below.
type Event interface{ event() }

// Found tells that port.txt names a port, and that the Client is about to
// connect to it. Disconnected follows, sooner or later.
type Found struct{ Port uint16 }

// Connected tells that the daemon has answered.
type Connected struct {
	// Version of the daemon.
	Version string
	// ServiceBinary is the path of the daemon's executable, as it says; empty in
	// old daemons.
	ServiceBinary string
	// ProcessorArch is the daemon's architecture, as it says.
	ProcessorArch string
}

// Disconnected tells that a connection has ended, or was not made: Err is nil if
// Run ends.
type Disconnected struct{ Err error }

// Refused tells that there is a port.txt and that it must not be used, or cannot.
type Refused struct{ Err error }

// Absent tells that there is no port.txt any more: the daemon has ended.
type Absent struct{}

// Endpoint is the far end of a VPN.
type Endpoint struct {
	Address  netip.AddrPort  `json:"address"`
	Protocol packet.Protocol `json:"protocol"`
}

// String returns "udp 192.0.2.1:2049", or "none".
func (e Endpoint) String() string {
	if !e.Address.IsValid() {
		return "none"
	}
	return fmt.Sprintf("%v %v", e.Protocol, e.Address)
}

// ConnectionStarting tells which endpoint the VPN is about to be connected to, or
// is connected to already.
type ConnectionStarting struct{ Endpoint Endpoint }

// ConnectionStopped tells that there is no VPN endpoint any more.
type ConnectionStopped struct{}

// VPNType is a VPN protocol. The numbers are the daemon's.
type VPNType int

// VPN protocols.
const (
	OpenVPN   VPNType = 0
	WireGuard VPNType = 1
)

// String returns the protocol's name.
func (t VPNType) String() string {
	switch t {
	case OpenVPN:
		return "OpenVPN"
	case WireGuard:
		return "WireGuard"
	}
	return fmt.Sprintf("VPN type %d", int(t))
}

// MarshalText returns String.
func (t VPNType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes what String returns.
func (t *VPNType) UnmarshalText(b []byte) error {
	for _, known := range []VPNType{OpenVPN, WireGuard} {
		if string(b) == known.String() {
			*t = known
			return nil
		}
	}
	if _, err := fmt.Sscanf(string(b), "VPN type %d", (*int)(t)); err != nil {
		return fmt.Errorf("unknown VPN type %q: %w", b, err)
	}
	return nil
}

// VPNConnected tells that the VPN works. What the daemon does not say is zero.
type VPNConnected struct {
	Type VPNType `json:"type"`
	// ClientIP and ClientIPv6 are the addresses of the tunnel's interface.
	ClientIP   netip.Addr `json:"clientIP,omitzero"`
	ClientIPv6 netip.Addr `json:"clientIPv6,omitzero"`
	ServerIP   netip.Addr `json:"serverIP,omitzero"`
	ServerPort uint16     `json:"serverPort,omitempty"`
	TCP        bool       `json:"tcp,omitempty"`
	MTU        int        `json:"mtu,omitempty"`
	Paused     bool       `json:"paused,omitempty"`
	// PausedUntil is zero unless Paused.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
	Since       time.Time `json:"since,omitzero"`
}

// DisconnectReason says why a VPN ended. The numbers are the daemon's.
type DisconnectReason int

// Reasons for the end of a VPN.
const (
	ReasonUnknown   DisconnectReason = 0
	ReasonAuthError DisconnectReason = 1
	ReasonRequested DisconnectReason = 2
)

// VPNDisconnected tells that the VPN does not work any more, or not yet.
type VPNDisconnected struct {
	Failure           bool
	Reason            DisconnectReason
	ReasonDescription string
	// IsStateInfo is true if the daemon was asked how it is: nothing has changed.
	IsStateInfo bool
}

// VPNState tells what a VPN in the making does, in the daemon's words.
type VPNState struct{ State, Value string }

// ServiceExiting tells that the daemon stops.
type ServiceExiting struct{}

func (Found) event()              {}
func (Connected) event()          {}
func (Disconnected) event()       {}
func (Refused) event()            {}
func (Absent) event()             {}
func (ConnectionStarting) event() {}
func (ConnectionStopped) event()  {}
func (VPNConnected) event()       {}
func (VPNDisconnected) event()    {}
func (VPNState) event()           {}
func (ServiceExiting) event()     {}
