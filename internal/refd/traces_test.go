package refd

import (
	"slices"
	"testing"

	"github.com/weirfw/weir/internal/refd/config"
)

func TestChainPrefixes(t *testing.T) {
	const ours = "*filter\n:INPUT ACCEPT [0:0]\n:WEIR-B - [0:0]\n:WEIR-V - [0:0]\n:WEIR-OUT - [0:0]\n:WEIR-IN - [0:0]\nCOMMIT\n"
	for name, tt := range map[string]struct {
		saved, asked string
		want         []string
	}{
		"nothing":             {"", "WEIR", nil},
		"all of them":         {ours, "WEIR", []string{"WEIR"}},
		"somebody else's":     {ours, "MINE", []string{"WEIR"}},
		"a rest of ours":      {"*mangle\n:MINE-S - [0:0]\n", "MINE", []string{"MINE"}},
		"a rest of another's": {"*mangle\n:MINE-S - [0:0]\n", "WEIR", nil},
		"other software":      {":DOCKER-USER - [0:0]\n:f2b-sshd - [0:0]\n-A INPUT -j WEIR-OUT\n", "WEIR", nil},
	} {
		if got := chainPrefixes(nil, tt.saved, tt.asked); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q; want %q", name, got, tt.want)
		}
	}
	if got := chainPrefixes([]string{"A", "WEIR"}, ours, "WEIR"); !slices.Equal(got, []string{"A", "WEIR"}) {
		t.Errorf("both families: got %q", got)
	}
}

func TestTracesOf(t *testing.T) {
	cfg := config.Default()
	all := Traces{Prefixes: []string{"MINE", "WEIR"}, Tables: []uint32{1718, 1719, 1726, 1727}, Files: []string{"/run/weir/kroute.json"}}
	own, others := all.Of(&cfg)
	if got, want := own.String(), "packet filter chains WEIR-*; routing rules to 1719 1726; /run/weir/kroute.json"; got != want {
		t.Errorf("own: got %q; want %q", got, want)
	}
	if got, want := others.String(), "packet filter chains MINE-*; routing rules to 1718 1727"; got != want {
		t.Errorf("others: got %q; want %q", got, want)
	}
	if got := (Traces{}).String(); got != "" {
		t.Errorf("none: got %q", got)
	}
}
