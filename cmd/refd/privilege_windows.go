package main

import (
	"path/filepath"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/winsvc"
)

// privilege is what refd needs, and how to get it.
const privilege = "an administrator: use a terminal that was started as administrator"

// resolverName is the resolver of the system that tells what it answers.
const resolverName = "the DNS client of Windows"

// privileged reports whether this process may intercept packets.
func privileged() bool { return windows.GetCurrentProcessToken().IsElevated() }

// protect makes sure that nobody else wrote the configuration at its default place, or will: it names the driver that is loaded.
func protect() error {
	return winsvc.ProtectFolder(filepath.Dir(config.DefaultPath), config.DefaultPath, logPath())
}

// whose says which refd a configuration is that of, as far as its traces are concerned.
func whose(cfg *config.File) string { return "kext.service " + cfg.Kext.Service }
