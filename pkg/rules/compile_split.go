package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/packet"
)

// WithInterfaceSyntax has every interface of a Split that is not empty checked
// by a function, such as one made of netif.ParseSelector, which says what is
// wrong with the text. It must not look for the interface: one that is not there
// now may come later. Without it, and before it, only what no interface can be
// called is refused: white space around the text and control characters.
func WithInterfaceSyntax(check func(text string) error) Option {
	return func(c *compiler) { c.checkSyntax = check }
}

// The effects of list.maybeOther for split entries: all do the same, which is
// different from doing nothing.
const (
	noEffect    effect = 0
	splitEffect effect = 1
)

// splitPart is a Split with compiled lists.
type splitPart struct {
	src              *Split
	profile          string
	include, exclude []*rule
}

// split compiles a Split; what is wrong is noted.
func (c *compiler) split(path string, layer Layer, profile string, src *Split) splitPart {
	if src.Interface != nil {
		c.splitInterface(path+".interface", *src.Interface)
	}
	p := splitPart{src: src, profile: profile}
	for i := range src.Include {
		p.include = append(p.include, c.splitEntry(path, "include", i, &src.Include[i]))
	}
	for i := range src.Exclude {
		p.exclude = append(p.exclude, c.splitEntry(path, "exclude", i, &src.Exclude[i]))
	}
	for _, r := range slices.Concat(p.include, p.exclude) {
		r.info.Layer, r.info.Profile = layer, profile
		r.decision.Reason.Text = splitWhy(r)
	}
	return p
}

func (c *compiler) splitInterface(path, text string) {
	const hint = `write the name, an address, the hardware address or the index of an interface, or "" for the best physical default`
	if text == "" {
		return
	}
	p := checkText(text)
	if p == nil && c.checkSyntax != nil {
		if err := c.checkSyntax(text); err != nil {
			p = &problem{text, err.Error(), ""}
		}
	}
	if p == nil {
		return
	}
	if p.hint == "" || strings.TrimSpace(text) == "" {
		p.hint = hint
	}
	c.bad(path, p)
}

// splitEntry compiles an entry to a rule without an action.
func (c *compiler) splitEntry(path, kind string, n int, src *SplitRule) *rule {
	name := kind + "[" + strconv.Itoa(n) + "]"
	path += "." + name
	r := &rule{app: -1, effect: splitEffect, src: Rule{
		ID: src.ID, Comment: src.Comment, Protocols: slices.Clone(src.Protocols),
		Remote: slices.Clone(src.Remote), RemotePorts: src.RemotePorts,
	}}
	r.info.ID = name
	if src.ID != "" {
		c.id(path+".id", src.ID, c.splitAt)
	}
	if len(src.Protocols) == 0 && len(src.Remote) == 0 && src.RemotePorts == "" {
		hint := `leave the list out and write "use: true" for everything`
		if kind == "exclude" {
			hint = `write "use: false" to exclude everything`
		}
		c.bad(path, &problem{"", "matches every connection", hint})
		return r
	}
	r.remotePorts = c.ports(path+".remote_ports", src.RemotePorts)
	if c.splitProtocols(path+".protocols", src.Protocols) {
		c.protocols(path, r)
	}
	c.remote(path+".remote", r)
	return r
}

// splitProtocols checks what no split tunnel carries.
func (c *compiler) splitProtocols(path string, list []packet.Protocol) (ok bool) {
	ok = true
	for i, p := range list {
		if p != packet.TCP && p != packet.UDP && !p.IsICMP() {
			ok = false
			c.bad(path+"["+strconv.Itoa(i)+"]", &problem{p.String(), "protocol that the split tunnel does not carry", "use tcp, udp, icmp or icmpv6"})
		}
	}
	return ok
}

// splitWhy is the text of an outcome that an entry leads to.
func splitWhy(r *rule) string {
	text := splitKey(r.info.ID, r.info.Profile)
	if r.src.ID != "" {
		text += " (" + r.src.ID + ")"
	}
	text += " matches"
	if r.src.Comment != "" {
		text += ": " + r.src.Comment
	}
	return text
}

// splitKey names a key of a Split, of a profile or global, for people.
func splitKey(name, profile string) string {
	if profile == "" {
		return "split." + name
	}
	return "split." + name + " of profile " + profile
}

// buildSplit indexes split entries that are known to be good.
func (c *compiler) buildSplit(global splitPart) {
	t := &c.set.split
	t.domains = domainTable{}
	b := listBuilder{domains: t.domains, ifaces: &c.set.ifaces}
	t.global = splitPolicy{useBy: LayerDefault, ifaceBy: LayerDefault}
	t.global.apply(&b, LayerGlobal, &global)
	t.note(&t.global)
	for i := range c.splits {
		p := &t.global
		if part := &c.splits[i]; !part.empty() {
			own := t.global
			own.apply(&b, LayerApp, part)
			p = &own
		}
		c.set.profiles[i].split = p
		t.note(p)
	}
	slices.Sort(t.interfaces)
	t.interfaces = slices.Compact(t.interfaces)
	t.hasDomains = b.hasDomains
	t.domains.finish()
}

// note remembers the interface that a policy leads to.
func (t *splitter) note(p *splitPolicy) {
	if p.use {
		t.interfaces = append(t.interfaces, p.iface)
	}
}

func (p *splitPart) empty() bool {
	return p.src.Use == nil && p.src.Interface == nil && len(p.include) == 0 && len(p.exclude) == 0
}

// apply changes a policy, which is the one above, to what a part says.
func (p *splitPolicy) apply(b *listBuilder, layer Layer, part *splitPart) {
	if part.src.Use != nil {
		p.use, p.useBy = *part.src.Use, layer
		p.whyUse = splitKey("use", part.profile) + " is " + strconv.FormatBool(p.use)
	}
	if p.useBy == LayerDefault {
		p.whyUse = "nothing turns the split tunnel on"
	}
	if part.src.Interface != nil {
		p.iface, p.ifaceBy = *part.src.Interface, layer
	}
	if l := b.splitList(part.exclude); l != nil {
		p.exclude[layer-LayerApp] = l
	}
	if l := b.splitList(part.include); l != nil {
		p.include = l
		p.whyNone = "no entry of " + splitKey("include", part.profile) + " matches"
		p.whyUnsure = p.whyNone + " as long as the domain is not known"
	}
}

// splitList returns nil if there are no entries.
func (c *listBuilder) splitList(entries []*rule) *list {
	if len(entries) == 0 {
		return nil
	}
	l, _ := c.build(entries, 0)
	return &l
}
