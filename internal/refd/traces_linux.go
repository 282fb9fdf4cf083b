package refd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
)

// FindTraces looks for traces of refds in the network namespace of the calling process, and for the files of this configuration. It
// changes nothing. Without root it fails.
func FindTraces(ctx context.Context, cfg *config.File) (t Traces, err error) {
	for _, program := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		saved, err := runSave(ctx, program)
		if err != nil {
			return t, err
		}
		t.Prefixes = chainPrefixes(t.Prefixes, saved, cfg.Netfilter.ChainPrefix)
	}
	if t.Tables, err = splitTables(); err != nil {
		return t, err
	}
	for _, name := range []string{"netfilter.json", "kroute.json"} {
		path := filepath.Join(cfg.Netfilter.StateDir, name)
		if _, err := os.Lstat(path); err == nil {
			t.Files = append(t.Files, path)
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return t, fmt.Errorf("look for state: %w", err)
		}
	}
	return t, nil
}

// runSave returns what a program prints, nothing if it is not installed.
func runSave(ctx context.Context, program string) (string, error) {
	// The caller's PATH is not asked: this runs as root.
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin", "/run/current-system/sw/bin"} {
		path := filepath.Join(dir, program)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, path)
		cmd.Env = []string{"PATH=" + dir, "LC_ALL=C"}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("read packet filter rules: %s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
		}
		return stdout.String(), nil
	}
	return "", nil
}

// splitTables returns the routing tables that rules of kroute lead to, which have its protocol.
func splitTables() (tables []uint32, err error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("read routing rules: %w", err)
	}
	defer c.Close() //nolint:errcheck // only read
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		const headerLen = 12 // struct fib_rule_hdr
		header := make([]byte, headerLen)
		header[0] = family
		rules, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETRULE, Flags: netlink.Request | netlink.Dump}, Data: header,
		})
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // no such family, or no rules for it
		}
		if err != nil {
			return nil, fmt.Errorf("read routing rules: %w", err)
		}
		for _, m := range rules {
			if len(m.Data) < headerLen || m.Data[0] != family {
				continue
			}
			n, ours, err := splitTable(m.Data[headerLen:])
			if err != nil {
				return nil, fmt.Errorf("read routing rules: %w", err)
			}
			if ours && n != 0 && !slices.Contains(tables, n) {
				tables = append(tables, n)
			}
		}
	}
	slices.Sort(tables)
	return tables, nil
}

// splitTable reads the attributes of a routing rule.
func splitTable(attributes []byte) (table uint32, ours bool, err error) {
	list, err := netlink.UnmarshalAttributes(attributes)
	if err != nil {
		return 0, false, fmt.Errorf("attributes: %w", err)
	}
	for _, a := range list {
		switch {
		case a.Type == unix.FRA_TABLE && len(a.Data) == 4:
			table = binary.NativeEndian.Uint32(a.Data)
		case a.Type == unix.FRA_PROTOCOL && len(a.Data) == 1:
			ours = a.Data[0] == kroute.DefaultProtocol
		}
	}
	return table, ours, nil
}
