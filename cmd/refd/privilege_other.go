//go:build !windows

package main

import (
	"fmt"
	"os"

	"github.com/weirfw/weir/internal/refd/config"
)

// privilege is what refd needs, and how to get it.
const privilege = "root: use sudo"

// resolverName is the resolver of the system that tells what it answers.
const resolverName = "systemd-resolved"

// privileged reports whether this process may intercept packets.
func privileged() bool { return os.Geteuid() == 0 }

// protect makes sure that nobody else wrote the configuration at its default place: here the folder's mode does that.
func protect() error { return nil }

// whose says which refd a configuration is that of, as far as its traces are concerned.
func whose(cfg *config.File) string {
	return fmt.Sprintf("chain_prefix %s and state_dir %s", cfg.Netfilter.ChainPrefix, cfg.Netfilter.StateDir)
}
