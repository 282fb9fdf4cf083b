package api

import (
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/verdict"
)

// Status says how refd is.
type Status struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// Mode is observe or enforce.
	Mode string `json:"mode"`
	// Config is the path of the configuration file.
	Config  string    `json:"config"`
	Rules   int       `json:"rules"`
	Started time.Time `json:"started"`
	// PausedUntil is zero unless interception is paused.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
	// ConfirmUntil is zero unless `refd confirm` is awaited.
	ConfirmUntil time.Time `json:"confirmUntil,omitzero"`
	// Worst is the severity of the worst state; fine if there is none.
	Worst    module.Severity `json:"worst"`
	Modules  []Module        `json:"modules"`
	States   []State         `json:"states"`
	Live     int             `json:"live"`
	Firewall firewall.Stats  `json:"firewall"`
	// Source has the figures of the packet backend.
	Source any `json:"source,omitempty"`
	// Processes has the figures of process lookups.
	Processes any `json:"processes,omitempty"`
	// Attribution says how it is found out whose connections are.
	Attribution *Attribution `json:"attribution,omitempty"`
	// Names is nil if the names of connections are not looked for.
	Names *Names `json:"names,omitempty"`
	// Nameserver is nil if refd has none.
	Nameserver *Nameserver `json:"nameserver,omitempty"`
	// SplitTunnel is nil without an engine.
	SplitTunnel *splittunnel.Status `json:"splitTunnel,omitempty"`
	// IVPN is what is known of that VPN client; nil if it is not looked for.
	IVPN *ivpn.State `json:"ivpn,omitempty"`
}

// Attribution says how it is found out whose connections are.
type Attribution struct {
	// Method is the best one that is in use; the others stand in for it.
	Method string `json:"method"`
	// Lookups is how often a process was asked for, and Found how often one was found, by method.
	Lookups uint64                     `json:"lookups"`
	Found   map[procinfo.Method]uint64 `json:"found"`
	// EBPF and EBPFStats are nil where that is not in use; Refused says why if the kernel refuses it.
	EBPF      *ebpf.Status `json:"ebpf,omitempty"`
	EBPFStats *ebpf.Stats  `json:"ebpfStats,omitempty"`
	Refused   string       `json:"refused,omitempty"`
}

// Names has the figures of what is known about names.
type Names struct {
	// Addresses have names.
	Addresses int `json:"addresses"`
	// PacketAnswers were read in packets.
	PacketAnswers uint64 `json:"packetAnswers"`
	// Resolver is what the system's resolver told; nil if it is not listened to.
	Resolver *dnsmon.Stats `json:"resolver,omitempty"`
}

// Nameserver says how our own nameserver is.
type Nameserver struct {
	// Enabled is false while a reload has taken all servers away.
	Enabled bool `json:"enabled"`
	// Addresses are listened on.
	Addresses []netip.AddrPort            `json:"addresses"`
	Upstreams []nameserver.UpstreamStatus `json:"upstreams"`
	Stats     nameserver.Stats            `json:"stats"`
}

// Module is a part of refd.
type Module struct {
	Name  string `json:"name"`
	Phase string `json:"phase"`
}

// State is something a person should know about a module.
type State struct {
	Module   string          `json:"module"`
	ID       string          `json:"id"`
	Title    string          `json:"title"`
	Message  string          `json:"message"`
	Severity module.Severity `json:"severity"`
	Since    time.Time       `json:"since"`
}

// ExplainRequest describes a connection that need not exist.
type ExplainRequest struct {
	// Path of the executable; empty is an unknown process.
	Path   string   `json:"path"`
	Args   []string `json:"args,omitempty"`
	Script string   `json:"script,omitempty"`
	UID    uint32   `json:"uid"`
	// Direction is out by default.
	Direction packet.Direction `json:"direction"`
	Protocol  packet.Protocol  `json:"protocol"`
	// Remote is an address or a domain, with or without a port.
	Remote string `json:"remote"`
	// LocalPort may be 0.
	LocalPort uint16 `json:"localPort,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Interface string `json:"interface,omitempty"`
}

// Step is a rule that was looked at.
type Step struct {
	Layer   string `json:"layer"`
	Rule    string `json:"rule"`
	Matched bool   `json:"matched"`
	Text    string `json:"text"`
}

// Explanation says what would happen, and why.
type Explanation struct {
	Connection conn.Snapshot    `json:"connection"`
	Decision   verdict.Decision `json:"decision"`
	// Asks is true if a person would be asked; then Decision is empty.
	Asks bool `json:"asks,omitempty"`
	// Enforced is false in mode observe.
	Enforced bool   `json:"enforced"`
	Steps    []Step `json:"steps"`
}

// ReloadResult says what a reload did.
type ReloadResult struct {
	Rules int `json:"rules"`
	// Changed is how many running connections got another verdict.
	Changed int `json:"changed"`
	// NeedRestart names settings that changed and take effect at the next start.
	NeedRestart []string `json:"needRestart,omitempty"`
	// Trouble is what did not work although the configuration is in force: a running connection may have its old verdict.
	Trouble string `json:"trouble,omitempty"`
}

// SplitRequest switches the split tunnel on or off, until refd is started again.
type SplitRequest struct {
	On bool `json:"on"`
}

// PauseRequest asks for a pause.
type PauseRequest struct {
	Seconds float64 `json:"seconds"`
}

// Interface is a network interface of the host.
type Interface struct {
	Index     uint32   `json:"index"`
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"`
	// Default4 and Default6 are the gateways of its default routes, "direct"
	// without one, "" if there is none.
	Default4 string `json:"default4,omitempty"`
	Default6 string `json:"default6,omitempty"`
	// Best lists the families whose best physical default it is.
	Best []string `json:"best,omitempty"`
}

// Rule is a rule with its counter.
type Rule struct {
	ID      string `json:"id"`
	Layer   string `json:"layer"`
	Action  string `json:"action"`
	Comment string `json:"comment,omitempty"`
	Hits    uint64 `json:"hits"`
}

// Problem is an error answer.
type Problem struct {
	Error string `json:"error"`
	// Problems are those with the keys of a configuration, if that is what was wrong.
	Problems []KeyProblem `json:"problems,omitempty"`
}
