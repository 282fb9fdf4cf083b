package ivpn

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// Names of messages, as the daemon's protocol has them.
const (
	cmdHello     = "Hello"
	cmdHelloResp = "HelloResp"
	cmdErrorResp = "ErrorResp"
	cmdEmptyResp = "EmptyResp"
	cmdSetDNS    = "SetTempPrioritizedDns"

	cmdStarting     = "ConnectionStarting"
	cmdStopped      = "ConnectionStopped"
	cmdConnected    = "ConnectedResp"
	cmdDisconnected = "DisconnectedResp"
	cmdVPNState     = "VpnStateResp"
	cmdExiting      = "ServiceExitingResp"
)

// errorSecret is the ErrorType of a request whose ProtocolSecret is missing or
// wrong.
const errorSecret = 1

// header is what every message has.
type header struct {
	// Command is the message's type.
	Command string
	// Idx is that of the request that a response answers; 0 in notifications.
	Idx uint32
}

// request is the beginning of every message to the daemon.
type request struct {
	header
	ProtocolSecret string
}

func (r *request) stamp(idx uint32, secret string) { r.Idx, r.ProtocolSecret = idx, secret }

// stamped is a message to the daemon that gets its number and secret when sent.
type stamped interface {
	stamp(idx uint32, secret string)
}

type hello struct {
	request
	Secret                  uint64
	ClientType              int
	Version                 string
	GetStatus               bool
	GetServiceBinaryPath    bool
	GetActiveRemoteEndpoint bool
}

type setDNS struct {
	request
	Dns         dnsServers //nolint:revive,staticcheck // the protocol's name
	Description string
}

type dnsServers struct {
	Servers []DNSServer
}

// message is what came from the daemon. body is nil for what is not known.
type message struct {
	header
	body any
}

// helloResp answers Hello.
type helloResp struct {
	Version       string
	ServiceBinary string
	ProcessorArch string
}

// errorResp refuses a request.
type errorResp struct {
	ErrorMessage string
	ErrorTitle   string
	ErrorType    int
}

// errMessage is wrapped by errors about a line that is no message.
var errMessage = errors.New("ivpn: not understood")

// parse reads a line. What is unknown in it is ignored. Errors wrap errMessage.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m.header); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	var err error
	switch m.Command {
	case cmdHelloResp:
		m.body, err = decode[helloResp](line)
	case cmdErrorResp:
		m.body, err = decode[errorResp](line)
	case cmdStarting:
		m.body, err = parseStarting(line)
	case cmdStopped:
		m.body = ConnectionStopped{}
	case cmdConnected:
		m.body, err = parseConnected(line)
	case cmdDisconnected:
		m.body, err = decode[VPNDisconnected](line)
	case cmdVPNState:
		m.body, err = parseState(line)
	case cmdExiting:
		m.body = ServiceExiting{}
	}
	if err != nil {
		return message{}, fmt.Errorf("%w: %s: %w", errMessage, m.Command, err)
	}
	return m, nil
}

func decode[T any](line []byte) (any, error) {
	var v T
	err := json.Unmarshal(line, &v)
	return v, err //nolint:wrapcheck // parse says whose line it is
}

func parseStarting(line []byte) (any, error) {
	var w struct {
		Address  netip.Addr
		Port     uint16
		Protocol uint8
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return nil, err //nolint:wrapcheck // parse says whose line it is
	}
	p := packet.Protocol(w.Protocol)
	if !w.Address.IsValid() || w.Address.IsUnspecified() || w.Port == 0 || p != packet.TCP && p != packet.UDP {
		return nil, fmt.Errorf("%v port %d protocol %v is no endpoint", w.Address, w.Port, p)
	}
	return ConnectionStarting{Endpoint{netip.AddrPortFrom(w.Address.Unmap().WithZone(""), w.Port), p}}, nil
}

func parseConnected(line []byte) (any, error) {
	var w struct {
		VpnType                        int //nolint:revive,staticcheck // the protocol's names, here and below
		ClientIP, ClientIPv6, ServerIP string
		ServerPort                     int
		IsTCP, IsPaused                bool
		PausedTill                     string
		Mtu                            int
		TimeSecFrom1970                int64
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return nil, err //nolint:wrapcheck // parse says whose line it is
	}
	v := VPNConnected{
		Type: VPNType(w.VpnType), ClientIP: address(w.ClientIP), ClientIPv6: address(w.ClientIPv6), ServerIP: address(w.ServerIP),
		TCP: w.IsTCP, MTU: w.Mtu, Paused: w.IsPaused,
	}
	if w.ServerPort > 0 && w.ServerPort < 1<<16 {
		v.ServerPort = uint16(w.ServerPort)
	}
	if w.TimeSecFrom1970 > 0 {
		v.Since = time.Unix(w.TimeSecFrom1970, 0)
	}
	if until, err := time.Parse(time.RFC3339, w.PausedTill); err == nil && w.IsPaused {
		v.PausedUntil = until
	}
	return v, nil
}

// parseState takes State in both forms that daemons have, a number and a word.
func parseState(line []byte) (any, error) {
	var w struct {
		State    json.RawMessage
		StateVal json.RawMessage
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return nil, err //nolint:wrapcheck // parse says whose line it is
	}
	word := func(raw json.RawMessage) string { return strings.Trim(string(raw), `"`) }
	return VPNState{State: word(w.State), Value: word(w.StateVal)}, nil
}

// address reads an address; what is none is the zero Addr.
func address(text string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
