package refd

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/module"
)

func TestPeopleAreToldOfBypassesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := newBypassNotices()
		n.states = module.NewStates("dns")
		done := make(chan error)
		go func() { done <- n.run(ctx, func() {}) }()
		began := time.Now()
		try := func(path string) []module.State {
			n.note(dnsguard.Bypass{Process: &conn.Process{PID: 7, Path: path}, Kind: dnsguard.DoT, Remote: netip.MustParseAddrPort("192.0.2.1:853")})
			synctest.Wait()
			return n.states.All()
		}
		list := try("/usr/bin/firefox")
		if len(list) != 1 || list[0].Severity != module.Hint || !strings.Contains(list[0].Message, "/usr/bin/firefox tried DNS over TLS by 192.0.2.1:853") {
			t.Fatalf("got %+v; want a hint", list)
		}
		time.Sleep(noticePause - time.Second)
		if list = try("/usr/bin/firefox"); len(list) != 1 || !list[0].Time.Equal(began) {
			t.Errorf("got %+v; want nothing new", list)
		}
		time.Sleep(time.Second)
		if list = try("/usr/bin/firefox"); len(list) != 1 || list[0].Time.Equal(began) {
			t.Errorf("got %+v; want it raised again", list)
		}
		for i := range maxNotices + 5 {
			list = try(fmt.Sprint("/opt/app", i))
		}
		if len(list) != maxNotices {
			t.Errorf("got %d hints; want %d at most", len(list), maxNotices)
		}
		for range 200 { // nobody waits for room
			n.note(dnsguard.Bypass{Kind: dnsguard.DoH, Domain: "dns.google"})
		}
		time.Sleep(noticeLife + 2*time.Minute)
		synctest.Wait()
		if list = n.states.All(); len(list) != 0 {
			t.Errorf("got %d hints an hour later; want none", len(list))
		}
		n.note(dnsguard.Bypass{Kind: dnsguard.DoH, Domain: "dns.google"})
		synctest.Wait()
		if list = n.states.All(); len(list) != 1 || !strings.Contains(list[0].Message, "not known tried DNS over HTTPS by dns.google") {
			t.Errorf("got %+v; want one about an unknown program", list)
		}
		cancel()
		if err := <-done; err != nil || len(n.states.All()) != 0 {
			t.Errorf("got %v and %+v at the end; want nothing left", err, n.states.All())
		}
	})
}
