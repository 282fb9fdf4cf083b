package names_test

import (
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/names"
)

func Example() {
	table, err := names.New(names.Config{})
	if err != nil {
		panic(err)
	}
	node := netip.MustParseAddr("198.51.100.7")
	table.Add(names.Systemd, names.Asker{}, names.Resolve(&dnsmon.Answer{
		Asked:   []string{"www.example.test"},
		Records: []dnsmon.Record{{Name: "www.example.test", Target: "node1.cdn.test"}, {Name: "node1.cdn.test", Addr: node}},
	})...)
	e, ok := table.Find(node, names.Asker{PID: 4711})
	fmt.Println(ok, e.Domain, e.CNAMEs, e.Source)
	// Output: true www.example.test [node1.cdn.test] systemd
}
