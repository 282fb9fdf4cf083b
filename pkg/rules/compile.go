package rules

import (
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/packet"
)

// Option changes what Compile does.
type Option func(*compiler)

// WithPrevious takes over the hit counters of an older Set for the rules whose
// ids it knows. The two share them: hits on the old one are not lost while the
// new one takes its place.
func WithPrevious(old *Set) Option { return func(c *compiler) { c.previous = old } }

// WithInterfaces says where the names of interfaces come from. It is required
// if a rule has interfaces, so that such a rule cannot go without effect unseen.
func WithInterfaces(i *Interfaces) Option { return func(c *compiler) { c.set.ifaces.source = i } }

// IgnoreCNAMEs makes domains of rules and of split entries match the name that was looked up only, not the aliases that it led
// to.
func IgnoreCNAMEs() Option { return func(c *compiler) { c.set.ignoreCNAMEs = true } }

// compiler is the state of one Compile.
type compiler struct {
	set      *Set
	previous *Set
	errs     []error
	// where has the paths of rule ids, profileAt those of profile ids.
	where, profileAt map[string]string
	ifacePatterns    map[string]int32

	// splitAt has the paths of the ids of split entries.
	splitAt map[string]string
	// splits are the split parts of the apps, in order.
	splits      []splitPart
	checkSyntax func(text string) error
}

// Compile checks a Config and returns its Set. It does not keep or change the
// Config. The error joins an *Error, which wraps ErrInvalid, for each thing that
// is wrong; see Errors.
func Compile(cfg Config, opts ...Option) (*Set, error) {
	c := &compiler{
		set: &Set{
			byID: map[string]*rule{}, apps: newAppTable(), domains: domainTable{},
			seed: maphash.MakeSeed(), unknown: &view{profile: -1},
		},
		where: map[string]string{}, profileAt: map[string]string{}, ifacePatterns: map[string]int32{},
		splitAt: map[string]string{},
	}
	for _, o := range opts {
		o(c)
	}
	c.defaults("default", cfg.Default)
	var lists [][]*rule
	for i := range cfg.Apps {
		lists = append(lists, c.app("apps["+strconv.Itoa(i)+"]", int32(i), &cfg.Apps[i]))
	}
	global := c.rules("global", LayerGlobal, "", cfg.Global)
	split := c.split("split", LayerGlobal, "", &cfg.Split)
	if len(c.errs) != 0 {
		return nil, errors.Join(c.errs...)
	}
	c.set.fallback = newFallback(cfg.Default.orElse(Defaults{In: Block, Out: Allow, Local: Allow}), "")
	c.build(lists, global)
	c.buildSplit(split)
	return c.set, nil
}

// orElse fills in what is not set.
func (d Defaults) orElse(o Defaults) Defaults {
	if d.In == 0 {
		d.In = o.In
	}
	if d.Out == 0 {
		d.Out = o.Out
	}
	if d.Local == 0 {
		d.Local = o.Local
	}
	return d
}

// build indexes rules that are known to be good.
func (c *compiler) build(lists [][]*rule, global []*rule) {
	b := listBuilder{domains: c.set.domains, ifaces: &c.set.ifaces}
	var slots int
	c.set.global, slots = b.build(global, 0)
	for i, rules := range lists {
		// profiles are never in one view together, so each begins at slots
		c.set.profiles[i].list, _ = b.build(rules, slots)
		c.set.rules = append(c.set.rules, rules...)
	}
	c.set.rules = append(c.set.rules, global...)
	c.set.hasDomains = b.hasDomains
	c.set.domains.finish()
}

// bad notes that a value is wrong.
func (c *compiler) bad(path string, p *problem) {
	if p != nil {
		c.errs = append(c.errs, p.at(path))
	}
}

func (c *compiler) defaults(path string, d Defaults) {
	for _, x := range [...]struct {
		name   string
		action Action
	}{{".in", d.In}, {".out", d.Out}, {".local", d.Local}} {
		if x.action != 0 && !x.action.Valid() {
			c.bad(path+x.name, &problem{x.action.String(), "no such action", actionHint})
		}
	}
}

const actionHint = "use allow, block, drop or ask"

// app compiles a profile and returns its rules.
func (c *compiler) app(path string, number int32, a *AppProfile) []*rule {
	c.id(path+".id", a.ID, c.profileAt)
	c.defaults(path+".default", a.Default)
	if len(a.Match) == 0 {
		c.bad(path+".match", &problem{"", "no match", "say which programs the profile is for; rules for all go into global"})
	}
	for i := range a.Match {
		at := path + ".match[" + strconv.Itoa(i) + "]"
		if a.Match[i].any() {
			c.bad(at, &problem{"", "matches every program", "rules for all programs go into global"})
			continue
		}
		m := c.appMatch(at, &a.Match[i])
		n := c.set.apps.intern(m)
		if m = c.set.apps.matches[n]; m.profile < 0 {
			m.profile = number
		}
	}
	c.set.profiles = append(c.set.profiles, profile{
		id: a.ID, fallback: newFallback(a.Default, a.ID), preventDNSBypass: cloneBool(a.PreventDNSBypass),
	})
	rules := c.rules(path+".rules", LayerApp, a.ID, a.Rules)
	c.splits = append(c.splits, c.split(path+".split", LayerApp, a.ID, &a.Split))
	return rules
}

func cloneBool(b *bool) *bool {
	if b == nil {
		return nil
	}
	return new(*b)
}

// id checks an id and that seen does not have it yet.
func (c *compiler) id(path, id string, seen map[string]string) {
	switch p := checkText(id); {
	case id == "":
		c.bad(path, &problem{"", "no id", "every rule and profile needs one, so that decisions can name it"})
	case p != nil:
		c.bad(path, p)
	case strings.ContainsAny(id, " \t"):
		c.bad(path, &problem{id, "white space in an id", "write " + strconv.Quote(strings.Join(strings.Fields(id), "-"))})
	case seen[id] != "":
		c.bad(path, &problem{id, "id is used twice", "the other is " + seen[id]})
	default:
		seen[id] = path
	}
}

func (c *compiler) rules(path string, layer Layer, profile string, rules []Rule) []*rule {
	out := make([]*rule, 0, len(rules))
	for i := range rules {
		r := c.rule(path+"["+strconv.Itoa(i)+"]", &rules[i])
		r.info.Layer, r.info.Profile = layer, profile
		out = append(out, r)
	}
	return out
}

// rule compiles one rule; what is wrong is noted.
func (c *compiler) rule(path string, src *Rule) *rule {
	r := &rule{src: clone(src), decision: ruleDecision(src), direction: src.Direction, app: -1}
	r.info = RuleInfo{ID: src.ID, Comment: src.Comment, Action: src.Action, hits: c.hits(src.ID)}
	c.id(path+".id", src.ID, c.where)
	c.set.byID[src.ID] = r
	if src.Action.Valid() {
		r.effect = src.effect()
	} else if src.Action == 0 {
		c.bad(path+".action", &problem{"", "no action", actionHint})
	} else {
		c.bad(path+".action", &problem{src.Action.String(), "no such action", actionHint})
	}
	if src.Direction >= numDirections {
		c.bad(path+".direction", &problem{src.Direction.String(), "no such direction", "use in, out or both"})
	}
	if !src.App.any() {
		r.app = c.set.apps.intern(c.appMatch(path+".app", &src.App))
	}
	r.remotePorts = c.ports(path+".remote_ports", src.RemotePorts)
	r.localPorts = c.ports(path+".local_ports", src.LocalPorts)
	c.protocols(path, r)
	c.remote(path+".remote", r)
	c.interfaces(path+".interfaces", r)
	return r
}

// clone copies what the caller could change later.
func clone(r *Rule) Rule {
	c := *r
	c.App = cloneMatch(&r.App)
	c.Protocols, c.ICMP = slices.Clone(r.Protocols), slices.Clone(r.ICMP)
	c.Remote, c.Interfaces = slices.Clone(r.Remote), slices.Clone(r.Interfaces)
	return c
}

// hits returns the counter of a rule id.
func (c *compiler) hits(id string) *atomic.Uint64 {
	if c.previous != nil {
		if old := c.previous.byID[id]; old != nil {
			return old.info.hits
		}
	}
	return new(atomic.Uint64)
}

func (c *compiler) ports(path, s string) spans {
	if s == "" {
		return nil
	}
	out, p := parsePorts(s)
	c.bad(path, p)
	return out
}

// protocols fills in the protocols that a rule can match: ports and ICMP types
// imply them.
func (c *compiler) protocols(path string, r *rule) {
	hasPorts := r.src.RemotePorts != "" || r.src.LocalPorts != ""
	if len(r.src.ICMP) != 0 {
		r.icmp = &icmpSet{}
		for i, s := range r.src.ICMP {
			c.bad(path+".icmp["+strconv.Itoa(i)+"]", r.icmp.add(s))
		}
		if hasPorts {
			c.bad(path+".icmp", &problem{"", "a rule has ICMP types or ports, not both", "make two rules of it"})
			return
		}
	}
	list := r.src.Protocols
	switch {
	case len(list) == 0 && hasPorts:
		list = []packet.Protocol{packet.TCP, packet.UDP, packet.UDPLite, packet.SCTP}
	case len(list) == 0 && r.icmp != nil:
		list = []packet.Protocol{packet.ICMP, packet.ICMPv6}
	case len(list) == 0:
		return
	}
	r.protocols = &byteSet{}
	for i, p := range list {
		r.protocols.add(uint8(p))
		at := path + ".protocols[" + strconv.Itoa(i) + "]"
		if hasPorts && !p.HasPorts() {
			c.bad(at, &problem{p.String(), "protocol without ports in a rule with ports", "make two rules of it"})
		}
		if r.icmp != nil && !p.IsICMP() {
			c.bad(at, &problem{p.String(), "protocol without ICMP types in a rule with icmp", "make two rules of it"})
		}
	}
}

func (c *compiler) remote(path string, r *rule) {
	if len(r.src.Remote) == 0 {
		return
	}
	p := remoteParser{from: &c.set.lists}
	for i, s := range r.src.Remote {
		c.bad(path+"["+strconv.Itoa(i)+"]", p.add(s))
	}
	r.remote = p.done()
}

func (c *compiler) interfaces(path string, r *rule) {
	if len(r.src.Interfaces) == 0 {
		return
	}
	if c.set.ifaces.source == nil {
		c.bad(path, &problem{"", "interface names are not available here", "compile with WithInterfaces"})
		return
	}
	for i, s := range r.src.Interfaces {
		n, ok := c.ifacePatterns[s]
		if !ok {
			p, bad := parsePattern(s, textGlob)
			if bad != nil {
				c.bad(path+"["+strconv.Itoa(i)+"]", bad)
				continue
			}
			n = int32(len(c.set.ifaces.patterns))
			c.ifacePatterns[s] = n
			c.set.ifaces.patterns = append(c.set.ifaces.patterns, p)
		}
		r.interfaces = append(r.interfaces, n)
	}
}
