package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// DefaultPath is where refd looks for its configuration: in the directory of all programs' data, where Windows has it unless somebody
// moved it.
const DefaultPath = defaultStateDir + `\refd.yaml`

// MaxSocket is how many bytes the name of the API's pipe may have (CreateNamedPipe).
const MaxSocket = 256

// Defaults that are not the same on every system.
const (
	defaultSocket   = pipes + "weir-refd"
	defaultStateDir = `C:\ProgramData\weir`
	// The driver goes when refd ends: nothing could stay closed.
	defaultOnExit = Open
	// Not every driver knows the split tunnel: who wants it says so.
	defaultEngine = SplitNone
	// The driver redirects to the address that the connection comes from, which is any of the host's.
	defaultListen4 = "0.0.0.0:719"
	defaultListen6 = "[::]:719"

	// splitPort is where the driver redirects split connections to.
	splitPort = 719

	exampleDatabase = `C:\ProgramData\weir\history.db`
	examplePattern  = `C:\Windows\System32\curl.exe or C:\Apps\*\run.exe`

	// pipes is where the names of pipes begin.
	pipes = `\\.\pipe\`
)

// foldPath makes what names one file the same.
func foldPath(path string) string { return strings.ToLower(path) }

func onExits() []string { return []string{string(Open)} }

func engines() []string { return []string{string(SplitProxy), string(SplitNone)} }

// checkListen finds addresses that the split tunnel's proxy cannot have.
func (s *SplitTunnel) checkListen(loopbackCheck) (found []value) {
	for path, got := range map[string]netip.AddrPort{"split_tunnel.listen4": s.Listen4, "split_tunnel.listen6": s.Listen6} {
		if !got.Addr().IsUnspecified() || got.Port() != splitPort {
			found = append(found, bad(path, got.String(), "not where the driver redirects to", "leave it out"))
		}
	}
	return found
}

// checkPaths finds files and pipes that cannot be meant.
func (f *File) checkPaths() (found []value) {
	absolute := func(path, got string) {
		if got != "" && (!filepath.IsAbs(got) || strings.ContainsRune(got, '"')) {
			found = append(found, bad(path, got, "not an absolute path", `begin it with a drive, such as C:\, and use no quotation marks`))
		}
	}
	absolute("ivpn.folder", f.IVPN.Folder)
	absolute("kext.driver", f.Kext.Driver)
	if absolute("netfilter.state_dir", f.Netfilter.StateDir); f.Netfilter.StateDir == "" {
		found = append(found, bad("netfilter.state_dir", "", "not an absolute path", "leave it out"))
	}
	for i, p := range f.DNS.Endpoints {
		absolute(fmt.Sprintf("dns.endpoints[%d]", i), p)
	}
	for name, files := range f.Lists {
		for i, p := range files {
			absolute(fmt.Sprintf("lists.%s[%d]", name, i), p)
		}
	}
	name, ok := strings.CutPrefix(f.API.Socket, pipes)
	switch n := len(f.API.Socket); {
	case !ok || name == "" || strings.Contains(name, `\`):
		found = append(found, bad("api.socket", f.API.Socket, "not the name of a pipe", "write it like "+defaultSocket))
	case n > MaxSocket:
		found = append(found, bad("api.socket", f.API.Socket, fmt.Sprintf("too long for a pipe: %d bytes", n), fmt.Sprintf("use at most %d", MaxSocket)))
	}
	if s := f.Kext.Service; s == "" || strings.ContainsAny(s, `/\`) {
		found = append(found, bad("kext.service", s, "not the name of a service", "leave it out, or use a name without slashes"))
	}
	return found
}
