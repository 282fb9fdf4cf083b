package main

import (
	"fmt"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/verdict"
)

const splitPicture = `
   client                                            server
  ┌────────────┐ vpn0, default route   ┌─────┐      ┌────────────────────────────┐
  │ refd       ├───────────────────────┤ vpn ├──────┤ web.demo    %-12s   │
  │ curl, nc   ├───────────────────────┤ isp ├──────┤ other.demo  %-12s   │
  └────────────┘ eth0, the provider    └─────┘      └────────────────────────────┘
`

// aroundVPN sends one app around the VPN.
const aroundVPN = `split_tunnel: {engine: %s}
default: {in: block, out: allow}
apps:
  - id: curl
    match: [{path: %s}]
    split: {use: true, interface: eth0}
`

// ways are the two uplinks of a client, and who is watched on them.
type ways struct{ client *testnet.Host }

// watch counts what leaves for the act's server from now on. What it returns tells by which way that was, and whether it is right. It is
// nil if there are no two ways.
func (w *ways) watch(p *play, a act) func() (text string, ok bool) {
	if w == nil {
		return nil
	}
	f := testnet.Filter{Dst: a.query.Remote, Direction: testnet.Outgoing}
	eth0, vpn0 := w.client.Sniff(p.s, "eth0", f), w.client.Sniff(p.s, "vpn0", f)
	return func() (string, bool) {
		counts := map[string]uint64{"eth0": eth0.Count(), "vpn0": vpn0.Count()}
		ok := true
		for name, n := range counts {
			ok = ok && (n > 0) == (name == a.by)
		}
		return fmt.Sprintf("%d packets by eth0, %d by vpn0", counts["eth0"], counts["vpn0"]), ok
	}
}

// split shows a client whose VPN has the default route, and one app that goes around it.
func (p *play) split() {
	p.check()
	p.out.title("Split tunnel: a VPN has the default route, and one app goes around it")
	done := p.out.working("building a client with two uplinks")
	first, firstRefd := p.net, p.refd
	defer func() { p.net, p.refd, p.ways = first, firstRefd, nil }()
	lab := testnet.New(p.s)
	up := lab.Uplinks()
	p.net = &network{lab: lab, client: up.Client, server: up.Server}
	p.net.names(p.s, [][3]string{
		{"web.demo", testnet.UplinkServerV4, testnet.UplinkServerV6},
		{"other.demo", testnet.UplinkOtherServerV4, testnet.UplinkOtherServerV6},
	})
	serveWeb(p.s, up.Server, webPort)
	p.refd = newDaemon(p.s, lab, up.Client)
	p.ways = &ways{up.Client}
	done()
	p.out.verbatim(fmt.Sprintf(splitPicture[1:], testnet.UplinkServerV4, testnet.UplinkOtherServerV4))

	p.heading("WHAT LEFT; RULE: WHY; WHO")
	around := curl("http://web.demo/", testnet.UplinkServerV4, webPort).leaves("eth0")
	around6 := curl("http://web.demo/", testnet.UplinkServerV6, webPort).leaves("eth0")
	other := nc("other.demo", testnet.UplinkOtherServerV4, webPort).leaves("vpn0")
	p.engine("kroute", "by the kernel: a mark, a rule, a table of its own",
		around.comesTo(answered, verdict.RerouteToSplitTun, ""),
		around6.comesTo(answered, verdict.RerouteToSplitTun, ""),
		other.comesTo(answered, verdict.Accept, ""))
	p.refd.stop()
	p.engine("proxy", "by a proxy in refd, whose sockets are bound to eth0",
		around.comesTo(answered, verdict.RerouteToSplitTun, ""),
		other.comesTo(answered, verdict.Accept, ""))
	up.Client.Run(p.s, "ip", "link", "set", "eth0", "down")
	p.out.line()
	p.out.say(bold, "eth0 is down: the app fails at once, and never goes through the VPN instead")
	p.act(around.leaves("").comesTo(refused, verdict.Failed, ""))
	p.refd.stop()
}

// engine starts refd with an engine of the split tunnel and plays acts.
func (p *play) engine(name, how string, acts ...act) {
	p.check()
	p.refd.write(fmt.Sprintf(aroundVPN, name, p.refd.curl))
	p.refd.start(p.ctx)
	p.scene(scene{"Engine " + name + ", " + how, acts})
}
