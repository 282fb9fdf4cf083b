package verdict_test

import (
	"encoding/json"
	"fmt"

	"github.com/weirfw/weir/pkg/verdict"
)

// A backend has one array from actions to its own numbers.
func ExampleDecision_Action() {
	marks := [verdict.NumActions]uint32{
		verdict.ActionAccept:          1700,
		verdict.ActionPermanentAccept: 1710,
	}
	d := verdict.Decision{Verdict: verdict.Accept, Scope: verdict.ScopePermanent}
	fmt.Println(d.Action(), marks[d.Action()])
	fmt.Println(verdict.Decision{}.Action())
	// Output:
	// PermanentAccept 1710
	// Drop
}

func ExampleStrictest() {
	fmt.Println(verdict.Strictest(verdict.RerouteToTunnel, verdict.Block))
	fmt.Println(verdict.Strictest(verdict.Undecided, verdict.Accept))
	// Output:
	// Block
	// Accept
}

// Names and numbers are both read; names are written.
func ExampleVerdict_UnmarshalJSON() {
	var vs []verdict.Verdict
	fmt.Println(json.Unmarshal([]byte(`["Accept", 8, "3"]`), &vs), vs)
	_, err := verdict.Parse("accepted")
	fmt.Println(err)
	// Output:
	// <nil> [Accept RerouteToSplitTun Block]
	// verdict: unknown verdict "accepted": use a name such as "Accept" or a number from 0 to 8
}

func ExampleVerdict_Verb() {
	fmt.Println("The connection was", verdict.RerouteToSplitTun.Verb())
	// Output: The connection was split tunneled
}
