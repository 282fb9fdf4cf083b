package main

import (
	"net/netip"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// act is one program, and what it should come to.
type act struct {
	title    string                        // what is shown: argv without what is only for the demo
	argv     func(seconds string) []string // with how long the program is to wait
	sight    sight
	inbound  bool // the program runs on the server, and refd judges what comes in
	query    connstore.Query
	saw      outcome
	decision verdict.Verdict
	rule     string // "" if a default decides
	by       string // the interface that it leaves by, where client has two; "" if nothing may leave
}

// scene is acts under a heading.
type scene struct {
	title string
	acts  []act
}

// enforceScenes are what is played in mode enforce.
func enforceScenes() []scene {
	return []scene{
		{"Out: curl has rules of its own, then come those for everybody", []act{
			curl("http://web.demo/", webV4, webPort).comesTo(answered, verdict.Accept, ""),
			curl("http://web.demo/", webV6, webPort).comesTo(answered, verdict.Accept, ""),
			curl("http://web.demo:8080/", webV4, otherPort).comesTo(refused, verdict.Block, "web-only"),
			nc("web.demo", webV4, otherPort).comesTo(answered, verdict.Accept, ""),
			curl("http://ads.demo/", adsV4, webPort).comesTo(refused, verdict.Block, "ads"),
			curl("http://ads.demo/", adsV6, webPort).comesTo(refused, verdict.Block, "ads"),
			curl("http://tracker.demo/", trackerV4, webPort).comesTo(silence, verdict.Drop, "trackers"),
			nc("web.demo", webV4, askPort).comesTo(refused, verdict.Block, "ssh"),
			dig(webV4).comesTo(answered, verdict.Accept, ""),
			dig(adsV4).comesTo(refused, verdict.Block, "ads"),
			ping("web.demo", webV4).comesTo(answered, verdict.Accept, ""),
			ping("ads.demo", adsV4).comesTo(silence, verdict.Block, "ads"),
		}},
		{"In: programs on the server knock at client", []act{
			stranger(webPort).comesTo(answered, verdict.Accept, "our-web"),
			stranger(otherPort).comesTo(silence, verdict.Drop, ""),
		}},
		{"Within client, on loopback", []act{
			curl("http://localhost/", "127.0.0.1", webPort).comesTo(answered, verdict.Accept, ""),
			nc("localhost", "127.0.0.1", dbPort).comesTo(refused, verdict.Block, "db"),
		}},
	}
}

// observeScene is played in mode observe.
func observeScene() scene {
	return scene{"", []act{
		curl("http://ads.demo/", adsV4, webPort).comesTo(answered, verdict.Block, "ads"),
		ping("ads.demo", adsV6).comesTo(answered, verdict.Block, "ads"),
		stranger(otherPort).comesTo(answered, verdict.Drop, ""),
	}}
}

// seconds is how long the program is to wait: where silence is expected as short as is sure, else as a busy machine may need.
func (a act) seconds() string {
	if a.saw == silence {
		return "2"
	}
	return "8"
}

func (a act) comesTo(saw outcome, decision verdict.Verdict, rule string) act {
	a.saw, a.decision, a.rule = saw, decision, rule
	return a
}

// leaves says by which interface packets have to leave, and they alone.
func (a act) leaves(by string) act {
	a.by = by
	return a
}

// remote selects connections with one remote address.
func remote(address string) connstore.Query {
	a := netip.MustParseAddr(address)
	return connstore.Query{Remote: netip.PrefixFrom(a, a.BitLen()), Direction: connstore.OnlyOutbound}
}

// family is the flag that makes a program use the address's family, and how it is shown: IPv4 is understood.
func family(address string) (flag, shown string) {
	if netip.MustParseAddr(address).Is6() {
		return "-6", "-6 "
	}
	return "-4", ""
}

func curl(url, address string, port uint16) act {
	flag, shown := family(address)
	a := act{title: "curl " + shown + url, sight: curlSight}
	a.argv = func(seconds string) []string {
		return []string{"curl", flag, "-sS", "-m", seconds, "-o", "/dev/null", "-w", "%{http_code}", url}
	}
	a.query = remote(address)
	a.query.Port = port
	return a
}

func nc(name, address string, port uint16) act {
	flag, shown := family(address)
	a := act{title: "nc -z " + shown + name + " " + portText(port), sight: ncSight}
	a.argv = func(seconds string) []string { return []string{"nc", flag, "-vz", "-w", seconds, name, portText(port)} }
	a.query = remote(address)
	a.query.Port = port
	return a
}

func dig(server string) act {
	a := act{title: "dig web.demo @" + server, sight: digSight}
	a.argv = func(seconds string) []string {
		return []string{"dig", "+short", "+tries=1", "+time=" + seconds, "web.demo", "@" + server}
	}
	a.query = remote(server)
	a.query.Protocols = []packet.Protocol{packet.UDP}
	return a
}

func ping(name, address string) act {
	flag, shown := family(address)
	a := act{title: "ping " + shown + "-c3 " + name, sight: pingSight}
	a.argv = func(seconds string) []string { return []string{"ping", flag, "-nqc3", "-i0.1", "-W" + seconds, name} }
	a.query = remote(address)
	a.query.Protocols = []packet.Protocol{packet.ICMP, packet.ICMPv6}
	return a
}

// stranger is a curl on the server that comes to the client.
func stranger(port uint16) act {
	url := "http://client:" + portText(port) + "/"
	a := curl(url, testnet.ClientV4, port)
	a.inbound, a.query = true, remote(webV4)
	a.query.Direction, a.query.Port = connstore.OnlyInbound, port
	return a
}
