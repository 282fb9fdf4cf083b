package nfq

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// accounting makes the kernel count the bytes of connections that begin from then on. It is the network namespace's own.
const accounting = "/proc/sys/net/netfilter/nf_conntrack_acct"

// readAccounting returns "" if the kernel does not count.
func readAccounting() string {
	b, err := os.ReadFile(accounting)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startCounting switches accounting on. Where that is not possible transferred bytes are known by other means or not at all.
func (s *hostState) startCounting(log *slog.Logger) {
	if s == nil || readAccounting() == "1" {
		return
	}
	if err := os.WriteFile(accounting, []byte("1\n"), 0o644); err != nil {
		log.Warn("connection tracking does not count transferred bytes", "error", err)
	}
}

// stopCounting puts accounting back to what it was before us.
func (s *hostState) stopCounting() error {
	if s == nil || s.Accounting == "" || readAccounting() == s.Accounting {
		return nil
	}
	if err := os.WriteFile(accounting, []byte(s.Accounting+"\n"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore sysctl nf_conntrack_acct to %s: %w", s.Accounting, err)
	}
	return nil
}
