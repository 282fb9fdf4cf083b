// Package winerig lets tests of the Windows parts run under Wine: a fake driver for both protocols, a fake Event Tracing for
// Windows, and what a test has to say where Wine is not Windows.
//
// scripts/wine-rig.sh builds the rig, and `make test-windows` runs the Windows test binaries of every package in it. Without the
// rig those tests skip; on a real Windows, too, where the fake driver cannot be loaded.
//
// A test that Wine cannot pass says so with [SkipUnderWine], and has a line in skips.txt, which is compared with what was skipped.
package winerig

import (
	"os"
	"path/filepath"
	"runtime"

	"github.com/weirfw/weir/internal/testutil"
)

// DirVar is the environment variable that names the directory of the rig, as scripts/wine-rig.sh makes it.
const DirVar = "WEIR_WINERIG"

// UplinkVar is the environment variable with the [Uplinks], as JSON; set where the tests run in a lab with two of them.
const UplinkVar = "WEIR_WINERIG_UPLINKS"

// Uplinks tells a test of the two ways that its namespace has to one server, which answers each TCP connection and each datagram
// with the address that it came from.
type Uplinks struct {
	// Default is the interface with the better default routes, Other that with the worse ones.
	Default, Other Uplink
	// Server4 and Server6 are the server, with port.
	Server4, Server6 string
}

// Uplink is one of the two.
type Uplink struct {
	// Name and Index are the interface's.
	Name  string
	Index int
	// Addr4, Addr6 are its addresses, Gateway4 and Gateway6 the routers behind it.
	Addr4, Addr6, Gateway4, Gateway6 string
	// Metric is that of its default routes.
	Metric uint32
}

// Personality says which driver the fake one is.
type Personality string

// The personalities; each is a file of its own, because refd loads what its configuration names.
const (
	// V1 is a driver of protocol v1: 1.0.12.0.
	V1 Personality = "v1"
	// V20 is a driver of protocol v2 that does not know verdict 11: 2.0.5.0.
	V20 Personality = "v2.0"
	// V2 is a driver of protocol v2 that knows everything: 2.1.1.0.
	V2 Personality = "v2"
)

// DriverFile returns the path of the fake driver, as Windows programs name it. It ends the test where there is no rig.
func DriverFile(t testutil.TB, p Personality) string {
	t.Helper()
	return File(t, "fakekext-"+string(p)+".sys")
}

// File returns the path of a file of the rig, as Windows programs name it. It ends the test where there is no rig.
func File(t testutil.TB, name string) string {
	t.Helper()
	dir := os.Getenv(DirVar)
	if runtime.GOOS != "windows" || dir == "" {
		t.Skipf("runs in the Wine rig only: make test-windows")
	}
	return `Z:` + filepath.FromSlash(dir+"/"+name)
}

// SkipUnderWine skips the test under Wine, because of a fact about it. The test needs a line in skips.txt.
func SkipUnderWine(t testutil.TB, fact string) {
	t.Helper()
	if UnderWine() {
		t.Skipf("%s%s", SkipPrefix, fact)
	}
}

// SkipPrefix begins what SkipUnderWine prints.
const SkipPrefix = "under Wine: "
