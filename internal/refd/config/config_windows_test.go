package config_test

import (
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/config"
)

func TestDefaultsOfWindows(t *testing.T) {
	l, err := config.Parse("f.yaml", []byte("mode: enforce\nkext: {driver: 'C:\\Program Files\\weir\\kext.sys'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	k := l.Kext
	if l.OnExit != config.Open || l.SplitTunnel.Engine != config.SplitNone || l.API.Socket != `\\.\pipe\weir-refd` ||
		k.Driver != `C:\Program Files\weir\kext.sys` || k.Service != "PortmasterKext" || k.Device != `\\.\PortmasterKext` {
		t.Errorf("got %+v", l.File)
	}
	if got := l.DNS.Nameserver.Target(true).String(); got != "127.0.0.1:53" {
		t.Errorf("the nameserver listens on %s; want where the driver redirects to", got)
	}
	if _, err := config.Parse("f.yaml", []byte("split: {use: true}\nsplit_tunnel: {engine: proxy}\n")); err != nil {
		t.Errorf("the proxy: %v", err)
	}
	next := l.File
	next.Kext.Driver = `C:\other.sys`
	if got := l.NeedRestart(&next); len(got) != 1 || got[0] != "kext" {
		t.Errorf("another driver needs a restart of %v; want kext", got)
	}
}

// TestHistoryOfWindows: a pattern is one of Windows' paths, whose case says nothing.
func TestHistoryOfWindows(t *testing.T) {
	l, err := config.Parse("f.yaml", []byte(`history: {path: 'C:\ProgramData\weir\h.db', exclude: ['C:\Program Files\*\run.exe']}`))
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{
		`C:\Program Files\a\run.exe`: true, `c:\program files\A\RUN.EXE`: true, `C:\Program Files\a\b\run.exe`: false, `C:\Program Files\run.exe`: false,
	} {
		if got := l.Recording.Excludes(file); got != want {
			t.Errorf("%s: got %t; want %t", file, got, want)
		}
	}
}

func TestBadFilesOfWindows(t *testing.T) {
	for text, want := range map[string]string{
		"on_exit: closed\n":                                          `f.yaml:1:10: on_exit: "closed": unknown value (use one of ["open"])`,
		"split_tunnel: {engine: kroute}\n":                           `split_tunnel.engine: "kroute": unknown value (use one of ["proxy" "none"])`,
		"split_tunnel: {listen4: '127.0.0.1:719'}":                   `split_tunnel.listen4: "127.0.0.1:719": not where the driver redirects to`,
		"split_tunnel: {listen6: '[::]:720'}":                        `split_tunnel.listen6: "[::]:720": not where`,
		"api: {socket: /run/weir/refd.sock}\n":                       `api.socket: "/run/weir/refd.sock": not the name of a pipe`,
		`api: {socket: '\\.\pipe\'}`:                                 `not the name of a pipe`,
		`api: {socket: '\\.\pipe\a\b'}`:                              `not the name of a pipe`,
		`api: {socket: '\\.\pipe\` + strings.Repeat("s", 256) + `'}`: `too long for a pipe`,
		"kext: {driver: kext.sys}\n":                                 `kext.driver: "kext.sys": not an absolute path`,
		`kext: {driver: 'C:\a".sys'}`:                                `not an absolute path`,
		"kext: {service: ''}\n":                                      `kext.service: "": not the name of a service`,
		`kext: {service: 'a\b'}`:                                     `not the name of a service`,
		"kext: {packet_timeout: 1ms}\n":                              `kext.packet_timeout: "1ms": too short`,
		"kext: {drivr: x}\n":                                         `unknown field "drivr" (did you mean "driver"?)`,
		"ivpn: {folder: etc}\n":                                      `ivpn.folder: "etc": not an absolute path`,
	} {
		_, err := config.Parse("f.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want %s", text, err, want)
		}
	}
}
