package rules

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/weirfw/weir/pkg/packet"
)

// Config is everything that Compile needs. The zero value has no rules: inbound
// is denied, outbound is allowed.
type Config struct {
	// Apps are tried in order; an app has the first profile that matches.
	Apps []AppProfile `json:"apps,omitempty" yaml:"apps,omitempty"`
	// Global rules are tried, in order, after those of the app.
	Global []Rule `json:"global,omitempty" yaml:"global,omitempty"`
	// Default decides what no rule does. Unset is block in, allow out, allow
	// local.
	Default Defaults `json:"default,omitzero" yaml:"default,omitempty"`
	// Split says which connections leave by an interface of their own.
	Split Split `json:"split,omitzero" yaml:"split,omitempty"`
}

// Defaults are the actions of connections that no rule matches, per direction.
// Block means a denial by DenyFor: dropped inbound, blocked outbound.
type Defaults struct {
	In  Action `json:"in,omitempty" yaml:"in,omitempty"`
	Out Action `json:"out,omitempty" yaml:"out,omitempty"`
	// Local stands for In where the connection comes from this host itself,
	// over loopback: it was judged when it went out.
	Local Action `json:"local,omitempty" yaml:"local,omitempty"`
}

// AppProfile holds the rules of an app.
type AppProfile struct {
	// ID is required and unique among profiles.
	ID string `json:"id" yaml:"id"`
	// Comment is for people. Optional.
	Comment string `json:"comment,omitempty" yaml:"comment,omitempty"`
	// Match says which processes the app consists of; one match is enough.
	// Required.
	Match []AppMatch `json:"match" yaml:"match"`
	// Default replaces the configuration's default, where it is set.
	Default Defaults `json:"default,omitzero" yaml:"default,omitempty"`
	// Rules are tried in order.
	Rules []Rule `json:"rules,omitempty" yaml:"rules,omitempty"`
	// Split says how the split tunnel is different for the app.
	Split Split `json:"split,omitzero" yaml:"split,omitempty"`
	// PreventDNSBypass says whether the app may not go round the system's DNS.
	// Unset inherits from whoever asks; see Set.PreventsDNSBypass.
	PreventDNSBypass *bool `json:"preventDNSBypass,omitempty" yaml:"prevent_dns_bypass,omitempty"`
}

// AppMatch is a condition on the process of a connection. All fields that are
// set must match. The zero value matches everything, the unknown process too.
type AppMatch struct {
	// Path of the executable: exact, or a glob such as "/opt/**/bin/*".
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// Args is a glob for the whole command line, its words joined by one
	// space. A program can write there what it wants.
	Args string `json:"args,omitempty" yaml:"args,omitempty"`
	// Script is the file that an interpreter runs: exact, or a glob.
	Script string `json:"script,omitempty" yaml:"script,omitempty"`
	// UIDs are user ids; one is enough.
	UIDs []uint32 `json:"uids,omitempty" yaml:"uids,omitempty"`
	// Cgroup is the path in the unified hierarchy: exact, or a glob such as
	// "/system.slice/*.service".
	Cgroup string `json:"cgroup,omitempty" yaml:"cgroup,omitempty"`
	// Identity of the app, exact or a glob in which * stands for anything: "flatpak:org.mozilla.firefox", "container:nginx",
	// "path:/opt/tool-*/bin/tool". docs/identity.md says which app has which.
	Identity string `json:"identity,omitempty" yaml:"identity,omitempty"`
	// Unit is the systemd service: exact, or a glob such as "ssh*.service". Those of users' own service managers begin with "user/".
	Unit string `json:"unit,omitempty" yaml:"unit,omitempty"`
	// Parent must match an ancestor of the process, not only its parent.
	Parent *AppMatch `json:"parent,omitempty" yaml:"parent,omitempty"`
	// Children makes what descends from a matching process match, too, whatever it runs.
	Children bool `json:"children,omitempty" yaml:"children,omitempty"`
}

// any reports whether m has no condition.
func (m *AppMatch) any() bool {
	return m.Path == "" && m.Args == "" && m.Script == "" && len(m.UIDs) == 0 && m.Cgroup == "" && m.Identity == "" && m.Unit == "" && m.Parent == nil
}

// Rule is a list of conditions and an action. The package comment tells how
// conditions are written and what they mean.
type Rule struct {
	// ID is required and unique among all rules of a Config.
	ID string `json:"id" yaml:"id"`
	// Comment is for people; it becomes the text of the reason. Optional.
	Comment string `json:"comment,omitempty" yaml:"comment,omitempty"`
	// App narrows the rule to some processes, also within a profile.
	App AppMatch `json:"app,omitzero" yaml:"app,omitempty"`
	// Direction is the side that opened the connection. Zero is both.
	Direction Direction `json:"direction,omitempty" yaml:"direction,omitempty"`
	// Protocols; one is enough.
	Protocols []packet.Protocol `json:"protocols,omitempty" yaml:"protocols,omitempty"`
	// ICMP names types of ICMP and ICMPv6, such as "echo".
	ICMP []string `json:"icmp,omitempty" yaml:"icmp,omitempty"`
	// Remote is who is on the other side: addresses, networks, ranges, scopes,
	// domains; one is enough.
	Remote []string `json:"remote,omitempty" yaml:"remote,omitempty"`
	// RemotePorts such as "80,443,8000-8100".
	RemotePorts string `json:"remotePorts,omitempty" yaml:"remote_ports,omitempty"`
	// LocalPorts are the ports on this host.
	LocalPorts string `json:"localPorts,omitempty" yaml:"local_ports,omitempty"`
	// Interfaces are names or globs, such as "wg0" or "docker*"; one is enough.
	Interfaces []string `json:"interfaces,omitempty" yaml:"interfaces,omitempty"`
	// Action is required.
	Action Action `json:"action" yaml:"action"`
	// Inspect asks that the decision is never made permanent, so that user
	// space sees every packet of the connection.
	Inspect bool `json:"inspect,omitempty" yaml:"inspect,omitempty"`
}

// Action is what a rule or a default does. The zero value is unset: a rule must
// not have it, a default inherits.
type Action uint8

// The actions.
const (
	// Allow accepts the connection.
	Allow Action = 1
	// Block refuses the connection and tells the sender.
	Block Action = 2
	// Drop refuses the connection silently.
	Drop Action = 3
	// Ask lets the user decide.
	Ask Action = 4

	numActions = 5
)

// ErrUnknownAction is wrapped by errors about an action that does not exist.
var ErrUnknownAction = errors.New("rules: unknown action")

// actionNames is a function, not a variable: nobody can change it.
func actionNames() [numActions]string {
	return [numActions]string{Allow: "allow", Block: "block", Drop: "drop", Ask: "ask"}
}

// Valid reports whether a is one of the four actions.
func (a Action) Valid() bool { return a > 0 && a < numActions }

// String returns "allow", "block", "drop" or "ask", and "" for the zero value.
func (a Action) String() string {
	if a < numActions {
		return actionNames()[a]
	}
	return "Action(" + strconv.Itoa(int(a)) + ")"
}

// MarshalText returns String. The error wraps ErrUnknownAction.
func (a Action) MarshalText() ([]byte, error) {
	if a >= numActions {
		return nil, fmt.Errorf("%w %d", ErrUnknownAction, uint8(a))
	}
	return []byte(a.String()), nil
}

// UnmarshalText takes what String returns. The error wraps ErrUnknownAction.
func (a *Action) UnmarshalText(b []byte) error {
	for i, n := range actionNames() {
		if n == string(b) {
			*a = Action(i)
			return nil
		}
	}
	return fmt.Errorf("%w %q: use allow, block, drop or ask", ErrUnknownAction, b)
}

// Direction is the direction a rule is for.
type Direction uint8

// The directions of a rule.
const (
	// Both is every direction.
	Both Direction = 0
	// In is connections that others open.
	In Direction = 1
	// Out is connections that this host opens.
	Out Direction = 2

	numDirections = 3
)

// ErrUnknownDirection is wrapped by errors about a direction that does not
// exist.
var ErrUnknownDirection = errors.New("rules: unknown direction")

func directionNames() [numDirections]string {
	return [numDirections]string{Both: "both", In: "in", Out: "out"}
}

// String returns "both", "in" or "out".
func (d Direction) String() string {
	if d < numDirections {
		return directionNames()[d]
	}
	return "Direction(" + strconv.Itoa(int(d)) + ")"
}

// MarshalText returns String. The error wraps ErrUnknownDirection.
func (d Direction) MarshalText() ([]byte, error) {
	if d >= numDirections {
		return nil, fmt.Errorf("%w %d", ErrUnknownDirection, uint8(d))
	}
	return []byte(d.String()), nil
}

// UnmarshalText takes what String returns, and "" for both. The error wraps
// ErrUnknownDirection.
func (d *Direction) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Both
		return nil
	}
	for i, n := range directionNames() {
		if n == string(b) {
			*d = Direction(i)
			return nil
		}
	}
	return fmt.Errorf("%w %q: use in, out or both", ErrUnknownDirection, b)
}

// has reports whether a rule for d is for connections in direction dir.
func (d Direction) has(dir packet.Direction) bool {
	switch d {
	case Both:
		return true
	case In:
		return dir == packet.Inbound
	case Out:
		return dir == packet.Outbound
	}
	return false
}

// Layer is the part of a Set that decided.
type Layer uint8

// The layers in the order they are tried. There is no layer 0.
const (
	// LayerApp is the rules of the app's profile.
	LayerApp Layer = 1
	// LayerGlobal is the rules for every app.
	LayerGlobal Layer = 2
	// LayerDefault is what remains: the default of the profile or of the Config.
	LayerDefault Layer = 3

	numLayers = 4
)

// String returns "app", "global" or "default".
func (l Layer) String() string {
	if l == 0 || l >= numLayers {
		return "Layer(" + strconv.Itoa(int(l)) + ")"
	}
	return [numLayers]string{LayerApp: "app", LayerGlobal: "global", LayerDefault: "default"}[l]
}

// MarshalText returns String.
func (l Layer) MarshalText() ([]byte, error) { return []byte(l.String()), nil }
