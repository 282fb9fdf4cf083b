package nfq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

const installRemedy = "install it (Debian, Ubuntu: apt install iptables; Fedora: dnf install iptables-nft)"

// checkRights returns an error that wraps ErrNoRights unless the process may change the packet filter.
func checkRights() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			return &HostError{
				Kind: ErrNoRights, What: "the capability " + c.name + " is missing",
				Remedy: "run as root, or give the program CAP_NET_ADMIN and CAP_NET_RAW",
			}
		}
	}
	return nil
}

// findTools returns the programs of a variant for one family, if they are installed.
func findTools(v Variant, f family) (tools, bool) {
	t := tools{family: f, variant: v}
	name := families[f].program + "-" + v.String()
	var ok, ok2 bool
	t.save, ok = findTool(name + "-save")
	t.restore, ok2 = findTool(name + "-restore")
	if ok && ok2 {
		return t, true
	}
	// Without the suffix it is whatever the distribution chose.
	plain := families[f].program
	if programVariant(f) != v {
		return tools{}, false
	}
	t.save, ok = findTool(plain + "-save")
	t.restore, ok2 = findTool(plain + "-restore")
	return t, ok && ok2
}

// programVariant returns what the program iptables is, or VariantAuto if there is none that works.
func programVariant(f family) Variant {
	path, ok := findTool(families[f].program)
	if !ok {
		return VariantAuto
	}
	proto := iptables.ProtocolIPv4
	if f == family6 {
		proto = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Path(path))
	if err != nil {
		return VariantAuto
	}
	if v1, v2, _ := ipt.GetIptablesVersion(); v1 < 1 || v1 == 1 && v2 < 6 {
		return VariantLegacy // there was no other
	}
	text, err := runTool(context.Background(), "", path, "--version")
	switch {
	case err != nil:
		return VariantAuto
	case strings.Contains(text, "nf_tables"):
		return VariantNFT
	}
	return VariantLegacy
}

// hostFamilies returns the families to filter: those wanted that this kernel has.
func hostFamilies(want Families) []family {
	list := []family{family4}
	if _, err := os.Stat("/proc/sys/net/ipv6"); want == BothFamilies && err == nil {
		list = append(list, family6)
	}
	return list
}

// errNoScratch tells that no throw-away network namespace can be made.
var errNoScratch = errors.New("no throw-away network namespace")

// inScratch runs fn in a network namespace that ends with it. Programs that fn starts are in it too; goroutines are not.
func inScratch(fn func() error) error {
	errc := make(chan error, 1)
	go func() {
		// Never unlocked: the thread, which is in the wrong namespace now, ends with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end. While it is held here, the runtime takes another.
			defer runtime.UnlockOSThread()
			errc <- inScratch(fn)
			return
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errc <- fmt.Errorf("%w: %w", errNoScratch, err)
			return
		}
		errc <- fn()
	}()
	return <-errc
}

// rehearse loads a set of rules where nobody is harmed. It returns the rules as this host's iptables-save prints them, or an
// error that says which feature is missing. Where there can be no such place it returns nil.
func rehearse(ctx context.Context, t tools, rs ruleset) (saved, error) {
	var canon saved
	err := inScratch(func() error {
		script, _ := rs.loadScript(saved{}, nil)
		if err := t.apply(ctx, script); err != nil {
			return err
		}
		var err error
		canon, err = t.read(ctx)
		return err
	})
	switch {
	case err == nil:
		return canon, nil
	case errors.Is(err, errNoScratch):
		return nil, nil //nolint:nilnil // the caller reads the rules back after loading them for real
	case ctx.Err() != nil:
		return nil, err
	}
	return nil, diagnose(ctx, t, rs, err)
}

// feature is something the rules need of the kernel and of iptables.
type feature struct{ table, rule, what string }

func (rs ruleset) features() []feature {
	n := families[rs.family]
	list := []feature{
		{"mangle", "-m mark --mark 1 -j MARK --set-mark 1", "packet marks (NETFILTER_XT_MARK)"},
		{"mangle", "-m connmark --mark 1 -j CONNMARK --save-mark", "connection marks (NETFILTER_XT_CONNMARK, NF_CONNTRACK_MARK)"},
		{"mangle", "-m connlabel --label 117 --set", "connection labels (NETFILTER_XT_MATCH_CONNLABEL, NF_CONNTRACK_LABELS)"},
		{"mangle", "-m owner ! --uid-owner 0-4294967294", "the owner match (NETFILTER_XT_MATCH_OWNER)"},
		{"mangle", n.icmp + " " + n.admin, "the ICMP match"},
		{"mangle", "-j NFQUEUE --queue-num 1", "NFQUEUE (NETFILTER_XT_TARGET_NFQUEUE, NETFILTER_NETLINK_QUEUE)"},
		{"filter", "-j REJECT --reject-with " + n.adminReject, "REJECT (IP_NF_TARGET_REJECT, IP6_NF_TARGET_REJECT)"},
	}
	if rs.family == family6 {
		list = append(list, feature{"mangle", "-m hl --hl-eq 255", "the hop limit match (NETFILTER_XT_MATCH_HL)"})
	}
	if slices.ContainsFunc(rs.tables, func(t table) bool { return t.name == "nat" }) {
		list = append(list,
			feature{"nat", "-p udp -j DNAT --to-destination :1", "DNAT (NETFILTER_XT_NAT)"},
			feature{"filter", "-m conntrack --ctstate DNAT", "the conntrack match (NETFILTER_XT_MATCH_CONNTRACK)"})
	}
	return list
}

// diagnose finds out what made loading fail.
func diagnose(ctx context.Context, t tools, rs ruleset, cause error) error {
	for _, f := range rs.features() {
		script := "*" + f.table + "\n:PROBE - [0:0]\n-A PROBE " + f.rule + "\nCOMMIT\n"
		if err := inScratch(func() error { return t.apply(ctx, script) }); err != nil && ctx.Err() == nil {
			return &HostError{
				Kind: ErrNoKernelSupport, What: f.what + " for " + t.family.String(), Err: err,
				Remedy: "load the module or use a kernel that has it, and update iptables",
			}
		}
	}
	return &HostError{
		Kind: ErrNoTool, What: "iptables refuses our rules", Remedy: "update iptables, or try the other variant", Err: cause,
	}
}
