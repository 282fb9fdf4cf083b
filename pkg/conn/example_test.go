package conn_test

import (
	"fmt"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// The firewall writes; everybody else reads a snapshot that stays as it is.
func ExampleConn_Update() {
	c := conn.New(first())
	before := c.State()
	c.Update(func(s *conn.Snapshot) {
		s.Domain = "example.org"
		s.Decision = verdict.Decision{Verdict: verdict.Accept}
	})
	fmt.Println(before.Verdict(), before.Established())
	fmt.Println(c.State().Verdict(), c.State().Established(), c.State().Domain)
	// Output:
	// Undecided false
	// Accept true example.org
}

// The packet path reads one word.
func ExampleConn_SetAction() {
	c := conn.New(first())
	c.SetAction(verdict.ActionRerouteToSplitTun, 2)
	fmt.Println(c.Action())
	c.ClearAction()
	_, _, ok := c.Action()
	fmt.Println(ok)
	// Output:
	// RerouteToSplitTun 2 true
	// false
}
