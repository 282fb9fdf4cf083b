package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/winsvc"
)

// serviceName is the name of refd among the services of Windows.
const serviceName = "refd"

// serviceCmd makes refd a service of Windows. On Linux that is the unit's business.
type serviceCmd struct {
	Install   serviceInstallCmd   `cmd:"" help:"Install refd as a service that starts with the machine; --config is kept."`
	Uninstall serviceUninstallCmd `cmd:"" help:"Stop the service and remove it."`
	Start     serviceStartCmd     `cmd:"" help:"Start the service and wait until it intercepts."`
	Stop      serviceStopCmd      `cmd:"" help:"Stop the service and wait for it."`
}

type (
	serviceInstallCmd   struct{}
	serviceUninstallCmd struct{}
	serviceStartCmd     struct{}
	serviceStopCmd      struct{}
)

// Run installs the service.
func (serviceInstallCmd) Run(a *app) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find refd itself: %w", err)
	}
	if err := protect(); err != nil {
		return err
	}
	if err := trustedProgram(exe, a.cli.Config); err != nil {
		return err
	}
	args := []string{"run"}
	if a.cli.Config != "" {
		args = []string{"--config", a.cli.Config, "run"}
	}
	err = winsvc.Install(winsvc.Program{
		Name: serviceName, Display: "weir refd", Description: "Application firewall: decides what programs may do on the network.",
		Path: exe, Args: args,
	})
	if err != nil {
		return err
	}
	return a.say("installed: `refd service start` starts it, and so does the next start of the machine\n")
}

// trustedProgram wants a program, its folder and its configuration that nobody but administrators can change: they run with the rights
// of the system.
func trustedProgram(exe, configuration string) error {
	paths := []string{exe, filepath.Dir(exe)}
	if configuration != "" {
		paths = append(paths, filepath.Dir(configuration))
		if _, err := os.Stat(configuration); err == nil {
			paths = append(paths, configuration)
		}
	}
	if err := winsvc.CheckTrusted(paths...); err != nil {
		return fmt.Errorf("%w: copy refd.exe to C:\\Program Files\\weir, and the configuration to %s, and install it from there", err, config.DefaultPath)
	}
	return nil
}

// Run removes the service.
func (serviceUninstallCmd) Run(a *app) error {
	if err := winsvc.Uninstall(a.ctx, serviceName); err != nil {
		return err
	}
	return a.say("removed\n")
}

// Run starts the service.
func (serviceStartCmd) Run(a *app) error {
	if err := winsvc.Start(a.ctx, serviceName); err != nil {
		return err
	}
	return a.say("running\n")
}

// Run stops the service.
func (serviceStopCmd) Run(a *app) error {
	if err := winsvc.Stop(a.ctx, serviceName); err != nil {
		return err
	}
	return a.say("stopped\n")
}

// logPath is where a service writes what a terminal would show.
func logPath() string { return filepath.Join(filepath.Dir(config.DefaultPath), "refd.log") }

// asService is main for a process that the service manager started. There is no terminal: what refd says goes to a file beside the
// configuration.
func asService(ctx context.Context, args []string) (err error) {
	if err := protect(); err != nil {
		return err
	}
	log, err := os.OpenFile(logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return winsvc.Serve(ctx, serviceName, func(ctx context.Context, ready func()) error {
		err := runReady(ctx, args, log, log, ready)
		if err != nil {
			tell(log, err)
		}
		return err
	}, func(err error) uint32 { return uint32(exitStatus(err)) })
}
