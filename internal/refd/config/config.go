package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/kext"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/rules"
)

// File is the content of a configuration file. Default returns the values of
// what is not written.
type File struct {
	// Mode is observe or enforce.
	Mode Mode `yaml:"mode"`
	// OnExit says what is left on the host in mode enforce: closed or open.
	OnExit OnExit `yaml:"on_exit"`
	// PermanentVerdicts lets the kernel decide the rest of a connection.
	PermanentVerdicts bool `yaml:"permanent_verdicts"`
	// Failed is the answer to outbound connections that fail: block or drop.
	Failed Failed `yaml:"failed"`
	// OnChange is what happens to running connections that a new policy
	// refuses: cut or leave.
	OnChange OnChange `yaml:"on_change"`

	Ask       Ask       `yaml:"ask"`
	Handler   Handler   `yaml:"handler"`
	Log       Log       `yaml:"log"`
	API       API       `yaml:"api"`
	Netfilter Netfilter `yaml:"netfilter"`
	// Kext is the packet backend of Windows, as Netfilter is that of Linux.
	Kext Kext `yaml:"kext"`
	// SplitTunnel says how split connections are carried; which those are is
	// said by split.
	SplitTunnel SplitTunnel `yaml:"split_tunnel"`
	// DNS says where the names of connections come from.
	DNS DNS `yaml:"dns"`
	// Connectivity says how refd finds out whether the host is online.
	Connectivity Connectivity `yaml:"connectivity"`
	// Lists are files of domains and addresses, by the name under which rules refer to them.
	Lists   Lists   `yaml:"lists"`
	History History `yaml:"connections"`
	// Attribution says how the processes of connections are found.
	Attribution Attribution `yaml:"attribution"`
	// Recording says where connections are kept for good.
	Recording Recording `yaml:"history"`
	IVPN      IVPN      `yaml:"ivpn"`

	rules.Config `yaml:",inline"`
}

// Ask configures questions to the user.
type Ask struct {
	// DenyAfter is how long a connection waits for an answer. Then it is denied by default, and the question stays for the next one.
	DenyAfter time.Duration `yaml:"deny_after"`
	// Timeout is how long a question stays after its latest connection.
	Timeout time.Duration `yaml:"timeout"`
}

// Handler configures the external verdict handler.
type Handler struct {
	Deadline time.Duration `yaml:"deadline"`
}

// Log configures logging.
type Log struct {
	Level  slog.Level `yaml:"level"`
	Format LogFormat  `yaml:"format"`
}

// API configures the local control interface.
type API struct {
	// Socket is the path of the unix socket, on Windows the name of the pipe.
	Socket string `yaml:"socket"`
	// Group is whose members may use the socket and read the tokens, with GroupRole: read or write. Empty is nobody.
	Group     string    `yaml:"group"`
	GroupRole GroupRole `yaml:"group_role"`
	// Listen is the loopback address of the web page; not valid, written "", is none.
	Listen netip.AddrPort `yaml:"listen"`
}

// History bounds the memory of connections.
type History struct {
	MaxLive   int           `yaml:"max_live"`
	MaxEnded  int           `yaml:"max_ended"`
	KeepEnded time.Duration `yaml:"keep_ended"`
}

// Attribution configures how the processes of connections are found.
type Attribution struct {
	// Method is auto, inet_diag or proc.
	Method Method `yaml:"method"`
}

// Netfilter configures the Linux backend.
type Netfilter struct {
	// Variant of iptables: auto, nft or legacy.
	Variant string `yaml:"variant"`
	// ChainPrefix begins the names of our chains.
	ChainPrefix string `yaml:"chain_prefix"`
	// StateDir is where refd remembers what it changed.
	StateDir string `yaml:"state_dir"`
	Queues   Queues `yaml:"queues"`
	Marks    Marks  `yaml:"marks"`
	// QueueLength is how many packets the kernel keeps per queue.
	QueueLength int `yaml:"queue_length"`
	// PacketTimeout is how long a packet may wait for its verdict.
	PacketTimeout time.Duration `yaml:"packet_timeout"`
	// FailOpen accepts packets when a queue is full.
	FailOpen bool `yaml:"fail_open"`
}

// Kext configures the Windows backend.
type Kext struct {
	// Driver is the file of the kernel driver. It is not ours to ship: there is
	// no default.
	Driver string `yaml:"driver"`
	// Service is the name of the driver's service, which refd makes at its start
	// and removes at its end.
	Service string `yaml:"service"`
	// Device is the path of the driver's device.
	Device string `yaml:"device"`
	// TrustSplitTunnel believes that a driver of protocol v1 knows the split
	// tunnel, as only changed ones do.
	TrustSplitTunnel bool `yaml:"trust_split_tunnel"`
	// PacketTimeout is how long a packet may wait for its verdict.
	PacketTimeout time.Duration `yaml:"packet_timeout"`
}

// Queues are the NFQUEUE numbers.
type Queues struct {
	Out4 uint16 `yaml:"out4"`
	In4  uint16 `yaml:"in4"`
	Out6 uint16 `yaml:"out6"`
	In6  uint16 `yaml:"in6"`
}

// Marks are the packet marks.
type Marks struct {
	Accept       uint32 `yaml:"accept"`
	Block        uint32 `yaml:"block"`
	Drop         uint32 `yaml:"drop"`
	AcceptFinal  uint32 `yaml:"accept_final"`
	AcceptAlways uint32 `yaml:"accept_always"`
	BlockAlways  uint32 `yaml:"block_always"`
	DropAlways   uint32 `yaml:"drop_always"`
	Tunnel       uint32 `yaml:"tunnel"`
	SplitTun     uint32 `yaml:"split_tunnel"`
	Nameserver   uint32 `yaml:"nameserver"`
}

// SplitTunnel configures what carries connections that leave by an interface of
// their own.
type SplitTunnel struct {
	// Enabled is the switch: while it is off, nothing is split.
	Enabled bool `yaml:"enabled"`
	// Engine is kroute, proxy or none.
	Engine SplitEngine `yaml:"engine"`
	// Table is kroute's first routing table, and Priority that of its rules.
	Table    uint32 `yaml:"table"`
	Priority uint32 `yaml:"priority"`
	// Interfaces is how many interfaces kroute can use at once.
	Interfaces int `yaml:"interfaces"`
	// Listen4 and Listen6 are where the proxy listens.
	Listen4 netip.AddrPort `yaml:"listen4"`
	Listen6 netip.AddrPort `yaml:"listen6"`
}

// DNS configures where the names of connections come from.
type DNS struct {
	// Monitor follows what the system's resolver answers: systemd-resolved, or the DNS client of Windows.
	Monitor bool `yaml:"monitor"`
	// ResolvedSocket is where systemd-resolved tells that.
	ResolvedSocket string `yaml:"resolved_socket"`
	// Packets reads answers in packets.
	Packets bool `yaml:"packets"`
	// Wait is how long a connection may wait for its name where that matters.
	Wait time.Duration `yaml:"wait"`
	// CNAMEs lets domains of rules match aliases, too.
	CNAMEs bool `yaml:"cnames"`
	// Inspect blocks what goes to port 53 by UDP and is not DNS, while there is no nameserver of ours.
	Inspect bool `yaml:"inspect"`
	// PreventBypass keeps apps from DNS of their own, unless their profile says otherwise.
	PreventBypass bool `yaml:"prevent_bypass"`
	// Endpoints are files with more servers of DNS over HTTPS.
	Endpoints []string `yaml:"endpoints"`
	// SelfCheck looks from time to time whether names and packets are seen.
	SelfCheck bool `yaml:"self_check"`
	// Nameserver is our own.
	Nameserver Nameserver `yaml:"nameserver"`
}

// IVPN configures how refd lives with the VPN client of that name.
type IVPN struct {
	// Enabled accepts what that client's VPN and service need, if it is there.
	Enabled bool `yaml:"enabled"`
	// Role is what refd says that it is: neutral or firewall.
	Role IVPNRole `yaml:"role"`
	// Folder is where the service writes its files; empty is where it does on
	// this system.
	Folder string `yaml:"folder"`
	// Ping is where the service says that it has started.
	Ping netip.AddrPort `yaml:"ping"`
	// Notice shows in the status that the client is there.
	Notice bool `yaml:"notice"`
}

// Default returns the configuration of an empty file: mode observe.
func Default() File {
	return File{
		Mode:              Observe,
		OnExit:            defaultOnExit,
		PermanentVerdicts: true,
		Failed:            FailBlock,
		OnChange:          Cut,
		Ask:               Ask{DenyAfter: 10 * time.Second, Timeout: time.Minute},
		Handler:           Handler{Deadline: 250 * time.Millisecond},
		Log:               Log{Level: slog.LevelInfo, Format: Text},
		API:               API{Socket: defaultSocket, Group: "weir", GroupRole: GroupWrite, Listen: netip.MustParseAddrPort("127.0.0.1:818")},
		History:           History{MaxLive: 1 << 18, MaxEnded: 10_000, KeepEnded: 10 * time.Minute},
		Attribution:       Attribution{Method: MethodAuto},
		Recording:         Recording{Keep: 30 * 24 * time.Hour, MaxSize: 256, Exclude: []string{}},
		Netfilter: Netfilter{
			Variant:     "auto",
			ChainPrefix: "WEIR",
			StateDir:    defaultStateDir,
			Queues:      Queues{Out4: 17040, In4: 17140, Out6: 17060, In6: 17160},
			Marks: Marks{
				Accept: 1700, Block: 1701, Drop: 1702, AcceptFinal: 1709, AcceptAlways: 1710,
				BlockAlways: 1711, DropAlways: 1712, Tunnel: 1717, SplitTun: 1719, Nameserver: 1799,
			},
			QueueLength:   65535,
			PacketTimeout: 30 * time.Second,
		},
		Kext: Kext{Service: kextName, Device: kext.DefaultDevice, PacketTimeout: kextTimeout},
		SplitTunnel: SplitTunnel{
			Enabled: true, Engine: defaultEngine, Table: 1719, Priority: 719, Interfaces: 8,
			Listen4: netip.MustParseAddrPort(defaultListen4), Listen6: netip.MustParseAddrPort(defaultListen6),
		},
		DNS: DNS{
			Monitor: true, ResolvedSocket: dnsmon.DefaultSocket, Packets: true, Wait: firewall.DefaultNameWait, CNAMEs: true,
			Inspect: true, Endpoints: []string{}, SelfCheck: true, Nameserver: defaultNameserver(),
		},
		Connectivity: Connectivity{Probes: []string{}, Domains: []string{}},
		Lists:        Lists{},
		IVPN:         IVPN{Enabled: true, Role: IVPNNeutral, Ping: netip.MustParseAddrPort("127.0.0.1:817"), Notice: true},
	}
}

// kextName is the name of the driver that the protocols are known from, and that
// of its service.
const kextName = "PortmasterKext"

// kextTimeout is kext's own default.
const kextTimeout = kextv2.DefaultTimeout

// Mode is observe or enforce.
type Mode string

// The modes.
const (
	Observe Mode = "observe"
	Enforce Mode = "enforce"
)

// OnExit is closed or open.
type OnExit string

// What is left behind on exit.
const (
	Closed OnExit = "closed"
	Open   OnExit = "open"
)

// Failed is block or drop.
type Failed string

// How failures are answered.
const (
	FailBlock Failed = "block"
	FailDrop  Failed = "drop"
)

// OnChange is cut or leave.
type OnChange string

// What happens to running connections.
const (
	Cut   OnChange = "cut"
	Leave OnChange = "leave"
)

// Method is auto, inet_diag or proc.
type Method string

// How the processes of connections are found; each stands in for the one before it.
const (
	// MethodAuto uses eBPF where the kernel lets it in.
	MethodAuto     Method = "auto"
	MethodInetDiag Method = "inet_diag"
	MethodProc     Method = "proc"
)

// SplitEngine is kroute, proxy or none.
type SplitEngine string

// The engines of the split tunnel.
const (
	SplitKroute SplitEngine = "kroute"
	SplitProxy  SplitEngine = "proxy"
	SplitNone   SplitEngine = "none"
)

// IVPNRole is neutral or firewall.
type IVPNRole string

// What refd is for IVPN's service. Of a firewall it thinks that it is in charge:
// it switches its own split tunnel off.
const (
	IVPNNeutral  IVPNRole = "neutral"
	IVPNFirewall IVPNRole = "firewall"
)

// GroupRole is read or write.
type GroupRole string

// What the group of the API's socket may do.
const (
	GroupRead  GroupRole = "read"
	GroupWrite GroupRole = "write"
)

// LogFormat is text or json.
type LogFormat string

// The log formats.
const (
	Text LogFormat = "text"
	JSON LogFormat = "json"
)

// value is a problem with a value that the rules package does not check.
type value struct{ path, msg, hint string }

// loopbackCheck notes an address that is no loopback address of its family.
type loopbackCheck func(path string, got, example netip.AddrPort, family string)

// bad returns a problem with what was written.
func bad(path, written, msg, hint string) value {
	return value{path, fmt.Sprintf("%q: %s", written, msg), hint}
}

// check finds what the types cannot.
func (f *File) check() []value {
	var found []value
	oneOf := func(path, got string, want ...string) {
		for _, w := range want {
			if got == w {
				return
			}
		}
		found = append(found, bad(path, got, "unknown value", fmt.Sprintf("use one of %q", want)))
	}
	oneOf("mode", string(f.Mode), string(Observe), string(Enforce))
	oneOf("on_exit", string(f.OnExit), onExits()...)
	oneOf("failed", string(f.Failed), string(FailBlock), string(FailDrop))
	oneOf("on_change", string(f.OnChange), string(Cut), string(Leave))
	oneOf("api.group_role", string(f.API.GroupRole), string(GroupRead), string(GroupWrite))
	oneOf("log.format", string(f.Log.Format), string(Text), string(JSON))
	oneOf("netfilter.variant", f.Netfilter.Variant, "auto", "nft", "legacy")
	oneOf("attribution.method", string(f.Attribution.Method), string(MethodAuto), string(MethodInetDiag), string(MethodProc))
	oneOf("split_tunnel.engine", string(f.SplitTunnel.Engine), engines()...)
	oneOf("ivpn.role", string(f.IVPN.Role), string(IVPNNeutral), string(IVPNFirewall))
	atLeast := func(path string, got, low time.Duration) {
		if got < low {
			found = append(found, bad(path, got.String(), "too short", fmt.Sprintf("use at least %v", low)))
		}
	}
	atLeast("ask.deny_after", f.Ask.DenyAfter, time.Second)
	atLeast("ask.timeout", f.Ask.Timeout, time.Second)
	atLeast("handler.deadline", f.Handler.Deadline, time.Millisecond)
	atLeast("connections.keep_ended", f.History.KeepEnded, 0)
	atLeast("netfilter.packet_timeout", f.Netfilter.PacketTimeout, 100*time.Millisecond)
	atLeast("kext.packet_timeout", f.Kext.PacketTimeout, 100*time.Millisecond)
	within := func(path string, got, low, high int) {
		if got < low || got > high {
			found = append(found, bad(path, fmt.Sprint(got), "out of range", fmt.Sprintf("use %d to %d", low, high)))
		}
	}
	within("connections.max_live", f.History.MaxLive, 1024, 1<<24)
	within("connections.max_ended", f.History.MaxEnded, 1, 1<<24)
	within("netfilter.queue_length", f.Netfilter.QueueLength, 64, 1<<20)
	within("split_tunnel.interfaces", f.SplitTunnel.Interfaces, 1, 71)
	// below are the kernel's own tables and rules, above is the table of this host's addresses
	within("split_tunnel.table", int(f.SplitTunnel.Table), 256, 1<<31-1)
	within("split_tunnel.priority", int(f.SplitTunnel.Priority), 1, 32764)
	loopback := func(path string, got, example netip.AddrPort, family string) {
		if a := got.Addr(); !a.IsLoopback() || a.Is4() != example.Addr().Is4() || a.Zone() != "" || got.Port() == 0 {
			found = append(found, bad(path, got.String(), "not a loopback address of "+family+" with a port", "write it like "+example.String()))
		}
	}
	if a := f.API.Listen; a.IsValid() && (!a.Addr().IsLoopback() || a.Addr().Zone() != "" || a.Port() == 0) {
		found = append(found, bad("api.listen", a.String(), "not a loopback address with a port", `write 127.0.0.1:818, or "" for no web page`))
	}
	found = append(found, f.SplitTunnel.checkListen(loopback)...)
	loopback("ivpn.ping", f.IVPN.Ping, Default().IVPN.Ping, "IPv4")
	found = append(found, f.DNS.check()...)
	found = append(found, f.Recording.check()...)
	found = append(found, f.Connectivity.check()...)
	found = append(found, f.checkPaths()...)
	return append(found, f.checkHost(found)...)
}

func (d *DNS) check() (found []value) {
	if w := d.Wait; w < time.Millisecond || w > time.Second {
		found = append(found, bad("dns.wait", w.String(), "out of range", "use 1ms to 1s"))
	}
	return append(found, d.Nameserver.check()...)
}

// publicSuffixes finds rules that are about all names below a suffix that is not one owner's, such as ".co.uk".
func (l *Loaded) publicSuffixes() (found []value) {
	check := func(path string, remote []string) {
		for i, entry := range remote {
			name := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(entry, "*"), "."), "."))
			if len(name) == len(entry) || !strings.Contains(name, ".") {
				continue // an address, a scope, one name, or a whole top level domain, which nobody takes for a site
			}
			if suffix, _ := publicsuffix.PublicSuffix(name); suffix == name {
				found = append(found, bad(fmt.Sprintf("%s.remote[%d]", path, i), entry,
					"names below it belong to different owners", "name a site, such as example."+name))
			}
		}
	}
	list := func(path string, all []rules.Rule) {
		for i, r := range all {
			check(fmt.Sprintf("%s[%d]", path, i), r.Remote)
		}
	}
	list("global", l.Global)
	for i, a := range l.Apps {
		list(fmt.Sprintf("apps[%d].rules", i), a.Rules)
	}
	return found
}

// idle finds what does nothing about the split tunnel.
func (l *Loaded) idle() (found []value) {
	const remedy = "write use: true beside it, or use: false to keep it for later"
	idle := func(s rules.Split) bool {
		return s.Use == nil && (s.Interface != nil || len(s.Include) > 0 || len(s.Exclude) > 0)
	}
	inUse := l.Split.Use != nil && *l.Split.Use
	if !l.Rules.SplitOn() && idle(l.Split) {
		found = append(found, value{"split", "does nothing: no app uses the split tunnel", remedy})
	}
	for i, a := range l.Apps {
		if !inUse && idle(a.Split) {
			found = append(found, value{fmt.Sprintf("apps[%d].split", i), "does nothing: the app does not use the split tunnel", remedy})
		}
	}
	if n := len(l.Rules.SplitInterfaces()); l.SplitTunnel.Engine == SplitKroute && n > l.SplitTunnel.Interfaces {
		found = append(found, value{
			"split_tunnel.interfaces", fmt.Sprintf("apps name %d interfaces, and there is room for %d: the rest fails", n, l.SplitTunnel.Interfaces),
			"unless some of them are the same, write " + fmt.Sprint(n),
		})
	}
	return found
}

// NeedRestart names the settings of next that differ and that a running refd
// cannot change.
func (f *File) NeedRestart(next *File) []string {
	var names []string
	differs := func(name string, same bool) {
		if !same {
			names = append(names, name)
		}
	}
	differs("mode", f.Mode == next.Mode)
	differs("on_exit", f.OnExit == next.OnExit)
	differs("permanent_verdicts", f.PermanentVerdicts == next.PermanentVerdicts)
	differs("failed", f.Failed == next.Failed)
	differs("on_change", f.OnChange == next.OnChange)
	differs("ask", f.Ask == next.Ask)
	differs("handler", f.Handler == next.Handler)
	differs("log.format", f.Log.Format == next.Log.Format)
	differs("api", f.API == next.API)
	differs("netfilter", f.Netfilter == next.Netfilter)
	differs("kext", f.Kext == next.Kext)
	split := next.SplitTunnel
	split.Enabled = f.SplitTunnel.Enabled // a reload does it
	differs("split_tunnel", f.SplitTunnel == split)
	dns := next.DNS
	dns.CNAMEs = f.DNS.CNAMEs // a reload of the rules does it
	dns.PreventBypass = f.DNS.PreventBypass
	dns.Nameserver = f.DNS.Nameserver
	differs("dns", reflect.DeepEqual(f.DNS, dns))
	differs("dns.nameserver.listen", f.DNS.Nameserver.sameListen(&next.DNS.Nameserver))
	differs("connectivity", reflect.DeepEqual(f.Connectivity, next.Connectivity))
	differs("connections", f.History == next.History)
	differs("attribution", f.Attribution == next.Attribution)
	differs("history", reflect.DeepEqual(f.Recording, next.Recording))
	vpn := next.IVPN
	vpn.Notice = f.IVPN.Notice
	differs("ivpn", f.IVPN == vpn)
	return names
}
