package ivpn

import (
	"fmt"
	"net/netip"
)

// Phase says how far an Interop is.
type Phase uint8

const (
	// PhaseAbsent is the phase without a daemon that could be talked to.
	PhaseAbsent Phase = iota
	// PhaseConnecting is while the daemon's answer is awaited.
	PhaseConnecting
	// PhaseConnected is while the daemon is listened to.
	PhaseConnected
)

// String returns "absent", "connecting" or "connected".
func (p Phase) String() string {
	switch p {
	case PhaseAbsent:
		return "absent"
	case PhaseConnecting:
		return "connecting"
	case PhaseConnected:
		return "connected"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// MarshalText returns String.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes what String returns.
func (p *Phase) UnmarshalText(b []byte) error {
	for _, known := range []Phase{PhaseAbsent, PhaseConnecting, PhaseConnected} {
		if string(b) == known.String() {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("unknown phase %q", b)
}

// State is what an Interop knows. What is not known is zero; after the
// connection to the daemon has ended, that is everything.
type State struct {
	Phase Phase `json:"phase"`
	// ServicePort is where the daemon listens, on 127.0.0.1.
	ServicePort uint16 `json:"servicePort,omitempty"`
	// Version of the daemon.
	Version string `json:"version,omitempty"`
	// ServiceBinary is the daemon's executable, symbolic links resolved; empty if
	// it is not told or not trusted.
	ServiceBinary string `json:"serviceBinary,omitempty"`
	// Endpoint of the VPN.
	Endpoint Endpoint `json:"endpoint,omitzero"`
	// VPN is nil unless the VPN is connected. It must not be changed.
	VPN *VPNConnected `json:"vpn,omitempty"`
	// DNS is the nameserver of ours that the daemon lets the host use.
	DNS netip.Addr `json:"dns,omitzero"`
}

// sameVerdicts reports whether Handle answers the same with both states.
func (s *State) sameVerdicts(t *State) bool {
	return s.ServicePort == t.ServicePort && s.ServiceBinary == t.ServiceBinary && s.Endpoint == t.Endpoint
}
