package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Setting is a key of a configuration file that has one value. What rules are made of is not among them.
type Setting struct {
	// Key leads to it, such as "dns.wait".
	Key string `json:"key"`
	// Section is its first part, or "general".
	Section string `json:"section"`
	Title   string `json:"title"`
	// Help says what it does.
	Help string `json:"help,omitempty"`
	// Kind is bool, number, text, list, duration or choice.
	Kind string `json:"kind"`
	// Choices are the values of a choice.
	Choices []string `json:"choices,omitempty"`
	// Level is user or expert.
	Level string `json:"level"`
	// Value is what holds, and Default what would without the file: a bool, a number, a text, or a list of texts.
	Value   any `json:"value"`
	Default any `json:"default"`
	// Restart is true if a change takes effect at the next start.
	Restart bool `json:"restart,omitempty"`
	// FileOnly is true for paths: refd writes there as root, so only who may write the file says where.
	FileOnly bool `json:"fileOnly,omitempty"`
}

// about is what people need to know about a setting.
type about struct {
	title, help string
	user        bool
	choices     []string
}

// abouts describe the settings. One that ends with "." describes all below it that are not there by themselves.
//
//nolint:gochecknoglobals // a table that nobody writes
var abouts = map[string]about{
	"mode":               {"Mode", "observe computes and shows decisions and lets everything pass; enforce carries them out.", true, []string{"observe", "enforce"}},
	"on_exit":            {"When refd ends", "closed leaves the rules in place, so that nothing new passes without refd; open removes them. In mode enforce.", true, onExits()},
	"permanent_verdicts": {"Permanent verdicts", "Lets the kernel handle the rest of a connection that was decided. Off costs speed.", false, nil},
	"failed":             {"Failed connections", "How outbound connections that fail are answered: block tells the app at once, drop says nothing.", false, []string{"block", "drop"}},
	"on_change":          {"Running connections that a new rule refuses", "cut ends them, leave lets them go on.", true, []string{"cut", "leave"}},
	"ask.deny_after":     {"Time to answer a question", "Without an answer the connection is denied, and the question stays.", true, nil},
	"ask.timeout":        {"How long a question stays", "After the latest connection that it is about.", true, nil},
	"ask.":               {"Questions", "", false, nil},
	"handler.deadline":   {"Deadline of external handlers", "A handler that is slower is not waited for.", false, nil},
	"log.level":          {"Log level", "", false, []string{"DEBUG", "INFO", "WARN", "ERROR"}},
	"log.format":         {"Log format", "", false, []string{"text", "json"}},

	"api.socket":     {"API socket", "The unix socket that the command line uses.", false, nil},
	"api.group":      {"Group", "Members of this group may use the API socket and read the tokens. Empty is nobody but root.", false, nil},
	"api.group_role": {"What the group may do", "", false, []string{"read", "write"}},
	"api.listen":     {"Address of this page", "A loopback address. Empty switches the page off.", false, nil},
	"api.":           {"API", "", false, nil},

	"connections.max_live":   {"Live connections in memory", "At most.", false, nil},
	"connections.max_ended":  {"Ended connections in memory", "At most.", false, nil},
	"connections.keep_ended": {"Time to keep ended connections in memory", "", false, nil},
	"connections.":           {"Connections", "", false, nil},

	"history.path":     {"History database", "Where connections are kept. Empty is no history.", true, nil},
	"history.keep":     {"Keep connections for", "0s is for ever.", true, nil},
	"history.max_size": {"Largest size of the history", "In MiB; the oldest connections go first.", true, nil},
	"history.exclude":  {"Apps that are not recorded", "Paths, or patterns of paths.", true, nil},

	"netfilter.variant":        {"iptables variant", "", false, []string{"auto", "nft", "legacy"}},
	"netfilter.chain_prefix":   {"Prefix of chains", "Two refds in one network namespace need two.", false, nil},
	"netfilter.state_dir":      {"State folder", "Where refd remembers what it changed on this host.", false, nil},
	"netfilter.queue_length":   {"Queue length", "How many packets the kernel keeps per queue.", false, nil},
	"netfilter.packet_timeout": {"Packet timeout", "How long a packet may wait for its verdict.", false, nil},
	"netfilter.fail_open":      {"Accept packets when a queue is full", "The default is to drop them.", false, nil},
	"netfilter.queues.":        {"Queue", "Number of an NFQUEUE.", false, nil},
	"netfilter.marks.":         {"Mark", "A packet mark; other software may know the default.", false, nil},
	"netfilter.":               {"Packet filter", "", false, nil},

	"split_tunnel.enabled":    {"Use the split tunnel", "Apps and rules that are split leave by an interface of their own. Off: all go the usual way.", true, nil},
	"split_tunnel.engine":     {"Engine", "kroute routes in the kernel; proxy relays in refd; none is no split tunnel.", false, engines()},
	"split_tunnel.table":      {"First routing table", "", false, nil},
	"split_tunnel.priority":   {"Priority of routing rules", "", false, nil},
	"split_tunnel.interfaces": {"Interfaces at once", "How many interfaces kroute can use.", false, nil},
	"split_tunnel.listen4":    {"Address of the proxy (IPv4)", "", false, nil},
	"split_tunnel.listen6":    {"Address of the proxy (IPv6)", "", false, nil},

	"dns.monitor":              {"Listen to the system's resolver", "Tells which names connections were looked up by.", true, nil},
	"dns.packets":              {"Read DNS answers in packets", "", true, nil},
	"dns.resolved_socket":      {"Socket of systemd-resolved", "", false, nil},
	"dns.wait":                 {"Wait for a name", "How long a first packet may wait where its name matters to a rule.", false, nil},
	"dns.cnames":               {"Rules match aliases", "A domain in a rule also means names that lead to it.", true, nil},
	"dns.nameserver.upstreams": {"DNS servers", "Asked in this order. Without any, the system's DNS is used.", true, nil},
	"dns.nameserver.blocked":   {"Answer for blocked names", "", false, []string{"nxdomain", "sinkhole"}},
	"dns.nameserver.listen":    {"Addresses of the nameserver", "", false, nil},
	"dns.nameserver.stale":     {"Give expired answers for", "Only where no server answers; 0s is never.", false, nil},
	"dns.nameserver.seamless":  {"Redirect all DNS", "Queries to other servers are answered by refd.", true, nil},
	"dns.nameserver.canary":    {"Keep browsers from DNS over HTTPS", "Answers the domain by which browsers ask.", true, nil},
	"dns.prevent_bypass":       {"Block ways around the DNS server", "DNS over HTTPS, TLS and QUIC, and plain DNS elsewhere.", true, nil},

	"dns.nameserver.rebind_protection": {"Refuse addresses of this network in answers", "From servers that answer for the whole Internet.", true, nil},

	"dns.": {"DNS", "", false, nil},

	"ivpn.enabled": {"Live with IVPN", "Accept what the IVPN client needs, if it is there.", true, nil},
	"ivpn.role":    {"Role for IVPN", "firewall makes IVPN leave the split tunnel to refd.", false, []string{"neutral", "firewall"}},
	"ivpn.notice":  {"Say that IVPN was found", "", true, nil},
	"ivpn.folder":  {"Folder of the IVPN service", "Empty is where it is on this system.", false, nil},
	"ivpn.ping":    {"Address for pings", "Where IVPN says that it has started.", false, nil},
}

// live are settings whose change a running refd takes over.
//
//nolint:gochecknoglobals // a table that nobody writes
var live = []string{
	"log.level", "dns.cnames", "split_tunnel.enabled", "dns.nameserver.upstreams", "dns.nameserver.blocked", "dns.nameserver.stale",
	"dns.nameserver.seamless", "dns.nameserver.canary", "dns.nameserver.rebind_protection", "dns.nameserver.rebind_allow", "dns.nameserver.any_client", "dns.prevent_bypass",
	"ivpn.notice",
}

// paths are settings that only the file may change: they say what is opened, loaded or written with the rights of refd.
//
//nolint:gochecknoglobals // a table that nobody writes
var paths = []string{"api.socket", "history.path", "netfilter.state_dir", "dns.resolved_socket", "dns.endpoints", "ivpn.folder", "kext.driver", "kext.device", "kext.service"}

// Settings lists what can be set, with the values of f.
func (f *File) Settings() []Setting {
	def := Default()
	var all []Setting
	listSettings(&all, "", reflect.ValueOf(f).Elem(), reflect.ValueOf(&def).Elem())
	return all
}

// listSettings goes through a section.
func listSettings(all *[]Setting, prefix string, v, def reflect.Value) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if options == "inline" || name == "" || name == "-" {
			continue // the rules
		}
		key, value := prefix+name, v.Field(i)
		if value.Kind() == reflect.Struct && !isText(value) {
			listSettings(all, key+".", value, def.Field(i))
			continue
		}
		kind := kindOf(value)
		if kind == "" {
			continue // a list of sections: the file is the place for it
		}
		a := describe(key)
		s := Setting{
			Key: key, Section: "general", Title: a.title, Help: a.help, Kind: kind, Choices: a.choices, Level: "expert",
			Value: written(value), Default: written(def.Field(i)), Restart: !slices.Contains(live, key),
			FileOnly: slices.Contains(paths, key),
		}
		if a.user {
			s.Level = "user"
		}
		if a.choices != nil {
			s.Kind = "choice"
		}
		if section, _, below := strings.Cut(key, "."); below {
			s.Section = section
		}
		*all = append(*all, s)
	}
}

// describe returns what is known of a key. Of one that nobody described, the title is its name.
func describe(key string) about {
	if a, ok := abouts[key]; ok {
		return a
	}
	name := strings.ReplaceAll(key[strings.LastIndexByte(key, '.')+1:], "_", " ")
	for i := strings.LastIndexByte(key, '.'); i > 0; i = strings.LastIndexByte(key[:i], '.') {
		if a, ok := abouts[key[:i+1]]; ok {
			a.title += " " + name
			return a
		}
	}
	return about{title: strings.ToUpper(name[:1]) + name[1:]}
}

func isText(v reflect.Value) bool {
	return v.Type().Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

func kindOf(v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return "duration"
	case isText(v):
		return "text"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Int64:
		return "number"
	case reflect.String:
		return "text"
	case reflect.Slice:
		if e := v.Type().Elem(); e.Kind() == reflect.String || e.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			return "list"
		}
		return ""
	default:
		return ""
	}
}

// written is a value as a file has it.
func written(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err != nil {
			return fmt.Sprint(x)
		}
		return string(b)
	}
	switch v.Kind() {
	case reflect.Slice:
		texts := []string{}
		for i := range v.Len() {
			texts = append(texts, fmt.Sprint(written(v.Index(i))))
		}
		return texts
	case reflect.String:
		return v.String()
	default:
		return v.Interface()
	}
}
