//go:build !windows

package config

import "fmt"

// DefaultPath is where refd looks for its configuration.
const DefaultPath = "/etc/weir/refd.yaml"

// MaxSocket is how many bytes the path of the API's socket may have (unix(7)).
const MaxSocket = 107

// Defaults that are not the same on every system.
const (
	defaultSocket   = "/run/weir/refd.sock"
	defaultStateDir = "/run/weir"
	defaultOnExit   = Closed
	defaultEngine   = SplitKroute
	defaultListen4  = "127.0.0.17:719"
	defaultListen6  = "[::1]:719"

	exampleDatabase = "/var/lib/weir/history.db"
	examplePattern  = "/usr/bin/curl or /opt/app/*"
)

// foldPath makes what names one file the same.
func foldPath(path string) string { return path }

func onExits() []string { return []string{string(Closed), string(Open)} }

func engines() []string { return []string{string(SplitKroute), string(SplitProxy), string(SplitNone)} }

// checkListen finds addresses that the split tunnel's proxy cannot have.
func (s *SplitTunnel) checkListen(loopback loopbackCheck) []value {
	def := Default().SplitTunnel
	loopback("split_tunnel.listen4", s.Listen4, def.Listen4, "IPv4")
	loopback("split_tunnel.listen6", s.Listen6, def.Listen6, "IPv6")
	return nil
}

// checkPaths finds files and sockets that cannot be meant.
func (f *File) checkPaths() (found []value) {
	absolute := func(path, got string) {
		if len(got) == 0 || got[0] != '/' {
			found = append(found, bad(path, got, "not an absolute path", `begin it with "/"`))
		}
	}
	absolute("dns.resolved_socket", f.DNS.ResolvedSocket)
	for i, p := range f.DNS.Endpoints {
		absolute(fmt.Sprintf("dns.endpoints[%d]", i), p)
	}
	for name, files := range f.Lists {
		for i, p := range files {
			absolute(fmt.Sprintf("lists.%s[%d]", name, i), p)
		}
	}
	absolute("api.socket", f.API.Socket)
	absolute("netfilter.state_dir", f.Netfilter.StateDir)
	if f.IVPN.Folder != "" {
		absolute("ivpn.folder", f.IVPN.Folder)
	}
	if n := len(f.API.Socket); n > MaxSocket {
		found = append(found, bad("api.socket", f.API.Socket, fmt.Sprintf("too long for a socket: %d bytes", n), fmt.Sprintf("use at most %d", MaxSocket)))
	}
	return found
}
