package nameserver_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/verdict"
)

// blocklist is a Decider that blocks some names, also where they hide behind others.
type blocklist map[string]bool

func (b blocklist) Decide(_ context.Context, q nameserver.Query, a *nameserver.Answer) verdict.Decision {
	names := []string{q.Name}
	if a != nil {
		names = a.CNAMEs
	}
	for _, name := range names {
		if b[name] {
			return verdict.Decision{Verdict: verdict.Block, Reason: verdict.Reason{Code: "list", Text: name + " is on the list"}}
		}
	}
	return verdict.Decision{Verdict: verdict.Accept}
}

// A nameserver with a list of blocked names, asked as a program would.
func Example() {
	s, err := nameserver.New(nameserver.Config{
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Decider:  blocklist{"ads.example": true},
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{{Addr: netip.MustParseAddrPort("192.0.2.53:53")}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, done := make(chan struct{}), make(chan error)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	<-ready

	q := new(dns.Msg).SetQuestion("ads.example.", dns.TypeA)
	answer, err := dns.Exchange(q, s.Addrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(dns.RcodeToString[answer.Rcode])
	fmt.Println(answer.Extra[0].(*dns.TXT).Txt[0])

	cancel()
	fmt.Println(<-done)
	// Output:
	// NXDOMAIN
	// blocked: ads.example is on the list
	// <nil>
}

func ExampleParseUpstream() {
	for _, s := range []string{"9.9.9.9", "tls://9.9.9.9#dns.quad9.net", "https://9.9.9.9#dns.quad9.net", "dns.quad9.net"} {
		u, err := nameserver.ParseUpstream(s)
		if err != nil {
			fmt.Println("refused:", s)
			continue
		}
		fmt.Println(u, u.Addr)
	}
	// Output:
	// udp://9.9.9.9 9.9.9.9:53
	// tls://9.9.9.9#dns.quad9.net 9.9.9.9:853
	// https://9.9.9.9/dns-query#dns.quad9.net 9.9.9.9:443
	// refused: dns.quad9.net
}
